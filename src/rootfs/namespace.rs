//! Work that needs a range of ids is done by a child in a user namespace that has them.
//!
//! Inside, id i is the i-th of the range, and the caller stands right behind the range. A process cannot enter a user namespace
//! while it has threads, and must not stay in one: so it is a child, which dies with its parent and hands its result over as JSON.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitIdOptions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Error, SubRange};
use crate::sys::{Clone3, Extent, Forked, clone3, exit_now, write_maps_with_programs};

#[derive(Serialize, Deserialize)]
enum Answer<T> {
    Done(T),
    Failed { words: String, hint: Option<String> },
}

/// Runs `work` in a child that has the ranges. The process must have one thread.
pub(crate) fn in_range<T: Serialize + DeserializeOwned>(
    uids: SubRange,
    gids: SubRange,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    in_namespace(work, |child| {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        Ok(write_maps_with_programs(child, &extents(uids, uid), &extents(gids, gid))?)
    })
}

/// Runs `work` in a child in which the caller is root of its own files, whatever their modes. The process must have one thread.
pub(crate) fn as_owner<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    in_namespace(work, |child| {
        let write = |name: &str, text: String| {
            let path = format!("/proc/{}/{name}", child.as_raw_nonzero());
            std::fs::write(&path, text).map_err(|source| Error::Open { path, source })
        };
        // user_namespaces(7): without the right to set ids, groups first.
        write("setgroups", "deny".into())?;
        write("uid_map", format!("0 {} 1\n", rustix::process::geteuid().as_raw()))?;
        write("gid_map", format!("0 {} 1\n", rustix::process::getegid().as_raw()))
    })
}

fn in_namespace<T: Serialize + DeserializeOwned>(
    work: impl FnOnce() -> Result<T, Error>,
    map: impl FnOnce(Pid) -> Result<(), Error>,
) -> Result<T, Error> {
    let failed = |act| move |errno: rustix::io::Errno| Error::Namespace { act, source: errno.into() };
    let (go, start) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("prepare"))?;
    let (result, answer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("prepare"))?;
    let request = Clone3 { namespaces: libc::CLONE_NEWUSER as u64, cgroup: None };
    match clone3(&request).map_err(failed("start"))? {
        Forked::Child => {
            drop((start, result));
            child(go.into(), answer.into(), work)
        }
        Forked::Parent { child, pidfd } => {
            drop((go, answer));
            let mapped = map(child);
            if mapped.is_ok() {
                // A child that is gone is seen below.
                let _ = rustix::io::write(&start, b"!");
            }
            drop(start);
            let mut bytes = Vec::new();
            let read = File::from(result).read_to_end(&mut bytes);
            rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).map_err(failed("wait for"))?;
            mapped?;
            read.map_err(|source| Error::Namespace { act: "hear from", source })?;
            match serde_json::from_slice(&bytes) {
                Ok(Answer::Done(value)) => Ok(value),
                Ok(Answer::Failed { words, hint }) => Err(Error::Told { words, hint }),
                Err(source) => Err(Error::Namespace { act: "hear from", source: source.into() }),
            }
        }
    }
}

fn extents(range: SubRange, caller: u32) -> [Extent; 2] {
    [Extent { inside: 0, outside: range.start, count: range.count }, Extent { inside: range.count, outside: caller, count: 1 }]
}

fn child<T: Serialize>(mut go: File, mut answer: File, work: impl FnOnce() -> Result<T, Error>) -> ! {
    let asked = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let mut byte = [0];
    // Without the byte there are no maps, or no parent.
    if asked.is_err() || !matches!(go.read(&mut byte), Ok(1)) {
        exit_now(1);
    }
    let outcome = match work() {
        Ok(value) => Answer::Done(value),
        Err(error) => Answer::Failed { words: error.chain(), hint: error.hint().map(str::to_owned) },
    };
    let written = serde_json::to_vec(&outcome).map(|bytes| answer.write_all(&bytes));
    exit_now(i32::from(!matches!(written, Ok(Ok(())))))
}
