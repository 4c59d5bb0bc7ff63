//! The host's graphics processors, as device nodes.

use std::path::{Path, PathBuf};

/// Directories of nodes, and beginnings of names in /dev: DRM, AMD's compute, NVIDIA's driver, the one of WSL.
const DIRECTORIES: [&str; 2] = ["dri", "nvidia-caps"];
const NAMES: [&str; 3] = ["nvidia", "kfd", "dxg"];

/// What `@gpu` stands for on this machine, sorted; empty where there is none.
pub fn gpu_devices() -> Vec<String> {
    gpu_devices_in(Path::new("/dev"))
}

fn gpu_devices_in(dev: &Path) -> Vec<String> {
    let list = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir() && !kind.is_symlink())).map(|entry| entry.path()).collect()
    };
    let is_gpu = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        NAMES.iter().any(|begin| name.starts_with(begin))
    };
    let mut found: Vec<PathBuf> = DIRECTORIES.iter().flat_map(|name| list(&dev.join(name))).collect();
    found.extend(list(dev).into_iter().filter(is_gpu));
    let mut names: Vec<String> = found.into_iter().filter_map(|path| path.into_os_string().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_every_driver_are_found() {
        let dev = tempfile::tempdir().expect("directory");
        for name in ["dri/by-path", "nvidia-caps", "snd"] {
            std::fs::create_dir_all(dev.path().join(name)).expect("directory");
        }
        for name in ["dri/card0", "dri/renderD128", "nvidia0", "nvidiactl", "nvidia-caps/nvidia-cap1", "kfd", "null", "snd/seq"] {
            std::fs::write(dev.path().join(name), "").expect("file");
        }
        std::os::unix::fs::symlink("card0", dev.path().join("dri/link")).expect("link");
        let found = gpu_devices_in(dev.path());
        let names: Vec<&str> = found.iter().filter_map(|path| Path::new(path).strip_prefix(dev.path()).ok()?.to_str()).collect();
        assert_eq!(names, ["dri/card0", "dri/renderD128", "kfd", "nvidia-caps/nvidia-cap1", "nvidia0", "nvidiactl"]);
    }
}
