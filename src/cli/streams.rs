//! What standard input, output and error are: the payload gets them as they are, and some would lead out of the sandbox.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, fstat};
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType, getpeername};

use super::error::CliError;
use crate::profile::{NetworkMode, Profile};

/// A descriptor of a directory reaches what lies below it, past every mount; a socket keeps the network in which it was made, and most
/// kinds can be connected anew, to anything there.
///
/// # Errors
/// [`CliError::Told`] names the descriptor.
pub fn refuse_ways_out(profile: &Profile, rung: bool) -> Result<(), CliError> {
    let streams = [(rustix::stdio::stdin(), "input"), (rustix::stdio::stdout(), "output"), (rustix::stdio::stderr(), "error")];
    for (fd, name) in streams {
        match fstat(fd).map(|found| FileType::from_raw_mode(found.st_mode)) {
            Ok(FileType::Directory) => {
                return Err(CliError::Told {
                    words: format!("standard {name} is a directory, by which the payload would reach what lies below it"),
                    hint: Some("redirect a file, a pipe or /dev/null".into()),
                });
            }
            Ok(FileType::Socket) => refuse_socket(fd, name, profile.network.mode, rung)?,
            _ => {}
        }
    }
    Ok(())
}

fn refuse_socket(fd: BorrowedFd<'_>, name: &str, mode: NetworkMode, rung: bool) -> Result<(), CliError> {
    let network = mode == NetworkMode::Host;
    if is_settled(fd) || network && (!rung || is_internet(fd)) {
        return Ok(());
    }
    // With the host's network the rung still lets nobody connect to a socket with a path.
    let (words, other) = match network {
        false => ("speak with the host's network", ", or, if that is wanted: --network host"),
        true => ("speak with the host's services", ""),
    };
    let pipe = if name == "input" { "cat | hamper run ..." } else { "hamper run ... | cat" };
    Err(CliError::Told {
        words: format!("standard {name} is a socket, by which the payload would {words}"),
        hint: Some(format!("pass a pipe: {pipe}{other}")),
    })
}

/// Whether it speaks with one peer for good: connect(2) changes that of every other kind.
fn is_settled(fd: BorrowedFd<'_>) -> bool {
    socket_domain(fd) == Ok(AddressFamily::UNIX)
        && matches!(socket_type(fd), Ok(SocketType::STREAM | SocketType::SEQPACKET))
        && matches!(getpeername(fd), Ok(Some(_)))
}

fn is_internet(fd: BorrowedFd<'_>) -> bool {
    matches!(socket_domain(fd), Ok(AddressFamily::INET | AddressFamily::INET6))
}
