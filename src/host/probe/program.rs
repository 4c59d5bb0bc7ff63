//! hamper's own program file, the kernel's version and what is around both.

use std::os::unix::fs::{FileExt, MetadataExt};

use super::procfs::kernel_version;
use super::{Finding, Surroundings, shell_word};
use crate::sys;

/// The oldest kernel that hamper starts on: Landlock and mount_setattr(2) are both in it.
pub const MINIMUM_KERNEL: (u32, u32) = (5, 13);

/// hamper never runs with more rights than its caller.
pub fn installation(around: &Surroundings) -> Finding {
    const CHECK: &str = "installation";
    let file = std::fs::File::open("/proc/self/exe");
    let mode = file.as_ref().ok().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.mode());
    let capabilities = rustix::fs::getxattr("/proc/self/exe", "security.capability", &mut [0u8; 0]).is_ok_and(|length| length > 0);
    let program = around.program.display().to_string();
    if sys::secure_mode() || mode & 0o6000 != 0 || capabilities {
        return Finding::missing(CHECK, format!("{program} is setuid, setgid or has file capabilities"))
            .stops()
            .instead("hamper refuses to run: it never has more rights than its caller")
            .remedy([format!("sudo chmod ug-s {0}; sudo setcap -r {0}", shell_word(&program))]);
    }
    let linked = match file.ok().and_then(|file| is_dynamic(&file)) {
        Some(false) => "static",
        Some(true) => "dynamic: the static build starts up to 0.8 ms sooner",
        None => "its linkage cannot be read",
    };
    Finding::ok(CHECK, format!("{program}, no setuid or setgid bit, no file capabilities, {linked}"))
}

/// Capabilities of this process: a caller that has some lends them to nobody inside, and need not have them.
pub fn capabilities() -> Finding {
    const CHECK: &str = "capabilities";
    match caps::read(None, caps::CapSet::Permitted) {
        Ok(held) if held.is_empty() => Finding::ok(CHECK, "none, and none is needed".to_owned()),
        Ok(held) => {
            let mut names: Vec<String> = held.iter().map(ToString::to_string).collect();
            names.sort();
            Finding::ok(CHECK, format!("{} that hamper does not need: {}", names.len(), names.join(" ")))
        }
        Err(error) => Finding::ok(CHECK, format!("cannot be read: {error}")),
    }
}

/// Whether an ELF file names an interpreter, elf(5); only 64-bit files of this byte order are asked.
fn is_dynamic(file: &std::fs::File) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    const MAX_HEADERS: u64 = 64;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let offset = u64::from_ne_bytes(header.get(32..40)?.try_into().ok()?);
    let size = u64::from(u16::from_ne_bytes(header.get(54..56)?.try_into().ok()?));
    let count = u64::from(u16::from_ne_bytes(header.get(56..58)?.try_into().ok()?)).min(MAX_HEADERS);
    for index in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, offset.checked_add(index * size)?).ok()?;
        if u32::from_ne_bytes(kind) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

pub fn kernel() -> Finding {
    const CHECK: &str = "kernel";
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    match kernel_version(&release) {
        Some(version) if version >= MINIMUM_KERNEL => Finding::ok(CHECK, format!("Linux {release}")),
        _ => Finding::missing(CHECK, format!("Linux {release}, and hamper needs {}.{}", MINIMUM_KERNEL.0, MINIMUM_KERNEL.1))
            .stops()
            .instead("hamper refuses to run")
            .remedy(["# install a newer kernel, as the distribution offers it, and boot it"]),
    }
}

pub fn architecture() -> Finding {
    const CHECK: &str = "architecture";
    let uname = rustix::system::uname();
    let machine = uname.machine().to_string_lossy();
    let built = std::env::consts::ARCH;
    if !["x86_64", "aarch64"].contains(&built) {
        return Finding::missing(CHECK, format!("{built}: hamper has seccomp tables for x86_64 and aarch64"))
            .stops()
            .instead("hamper refuses to run without a filter");
    }
    if machine != built {
        return Finding::degraded(CHECK, format!("hamper is built for {built}, and the machine is {machine}"))
            .instead("images are taken for hamper's architecture, not the machine's")
            .remedy(["# install the hamper that is built for this machine"]);
    }
    Finding::ok(CHECK, built)
}

/// What is around hamper; what that refuses is found by the other checks.
pub fn container(around: &Surroundings) -> Finding {
    let mut seen = Vec::new();
    if let Some((kind, evidence)) = &around.container {
        seen.push(format!("in a container: {kind}, by {evidence}"));
    }
    if around.nested {
        seen.push("in another user namespace than the first".into());
    }
    if around.seccomp == 2 {
        seen.push("under a seccomp filter".into());
    }
    if around.no_new_privs {
        seen.push("with no_new_privs".into());
    }
    if around.chroot {
        seen.push("in a chroot".into());
    }
    if let Some(label) = around.label.as_ref().filter(|label| super::procfs::confines(label)) {
        seen.push(format!("under the AppArmor profile {label}"));
    }
    Finding::ok("surroundings", if seen.is_empty() { "nothing around hamper".to_owned() } else { seen.join(", ") })
}
