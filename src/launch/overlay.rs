//! Overlays made ready: layers, upper and work directories in the words of mount(2).

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::lower::{LowerError, Resources, c_path, c_string};
use super::op::{Op, PublishedLower};
use super::scratch::Scratch;
use crate::plan::{Lower, Over, Root, Upper};

pub(super) fn root_op(root: &Root, resources: &mut Resources) -> Result<Op, LowerError> {
    let Root::Overlay { lower, upper, owner } = root else {
        return Ok(Op::TmpfsRoot { target: c_path(&resources.layers)? });
    };
    let layers = c_path(&resources.layers)?;
    // The root covers its own upper directory, and so hides nothing that other overlays need of the scratch directory.
    let upper_base = match upper {
        Upper::Scratch => resources.scratch.as_ref().ok_or(LowerError::Missing("a scratch directory"))?.relative(),
        Upper::Keep(path) => escape(path),
    };
    // Any directory of ours serves: what is mounted there is seen in the new mount namespace only, and pivoted to.
    let target = &resources.layers;
    let names: Vec<String> = lower
        .iter()
        .rev()
        .map(|lower| match lower {
            // By the descriptor that the child puts in the place of ours.
            Lower::Layer(name) => match resources.published.iter().find(|(link, ..)| link == name) {
                Some((_, _, fd)) => format!("/proc/self/fd/{}", fd.as_raw_fd()),
                None => name.clone(),
            },
            Lower::Directory(path) => escape(path),
        })
        .collect();
    let published = std::mem::take(&mut resources.published).into_iter().map(published_lower).collect::<Result<_, _>>()?;
    // What is thrown away need not reach the disk: without "volatile" the kernel writes the whole file system back at each unmount.
    let volatile = if matches!(upper, Upper::Scratch) { ",volatile" } else { "" };
    let marks = match upper {
        Upper::Scratch => MARKS
            .map(|name| c_string(&format!("{upper_base}/w/work/{name}"), "a mark of the kernel"))
            .into_iter()
            .collect::<Result<_, _>>()?,
        Upper::Keep(_) => Vec::new(),
    };
    let options = format!("userxattr{volatile},lowerdir={},upperdir={upper_base}/u,workdir={upper_base}/w", names.join(":"));
    if options.len() < OPTIONS_MAX {
        return Ok(Op::OverlayRoot {
            layers,
            published,
            marks,
            owner: *owner,
            options: c_string(&options, "the layers")?,
            target: c_path(target)?,
        });
    }
    Ok(Op::LongOverlayRoot {
        layers,
        published,
        marks,
        owner: *owner,
        lower: names.iter().map(|name| c_string(name, "a layer")).collect::<Result<_, _>>()?,
        upper: c_string(&format!("{upper_base}/u"), "the upper directory")?,
        work: c_string(&format!("{upper_base}/w"), "the work directory")?,
        target: c_path(target)?,
    })
}

fn published_lower((_, path, fd): (String, PathBuf, OwnedFd)) -> Result<PublishedLower, LowerError> {
    let stat = rustix::fs::fstat(&fd).map_err(|source| LowerError::Open { path: path.clone(), source })?;
    Ok(PublishedLower { path: c_path(&path)?, device: stat.st_dev, inode: stat.st_ino, fd })
}

/// By these the kernel marks the work directory of a volatile overlay as not to be used again after a crash, the innermost first. A slot is
/// thrown away after one, so that they only stand in the way of the next run.
const MARKS: [&str; 3] = ["incompat/volatile/dirty", "incompat/volatile", "incompat"];

/// mount(2) copies one page of options, the last byte of which is the terminator.
const OPTIONS_MAX: usize = 4096;

pub(super) fn over_options(over: &Over, scratch: Option<&mut Scratch>) -> Result<CString, LowerError> {
    let (base, work, more) = match over {
        Over::Keep { path, work } => (path.clone(), work.as_str(), ",index=off"),
        Over::Scratch(name) => {
            let scratch = scratch.ok_or(LowerError::Missing("a scratch directory"))?;
            (scratch.also(name).map_err(|source| LowerError::Open { path: scratch.path().join(name), source })?, "w", ",volatile")
        }
    };
    let base = escape(&base);
    c_string(&format!("userxattr{more},lowerdir=.,upperdir={base}/u,workdir={base}/{work}"), "an overlay")
}

/// In overlay options a comma ends an option, a colon a lower directory, and a backslash protects both.
fn escape(path: &Path) -> String {
    let mut text = String::with_capacity(path.as_os_str().len());
    for character in path.to_string_lossy().chars() {
        if matches!(character, '\\' | ',' | ':') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}
