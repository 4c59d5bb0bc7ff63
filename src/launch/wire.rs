//! What init tells the parent: fixed-size messages over one socket pair, so that neither side parses or allocates.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recvmsg, send, sendmsg, socketpair,
};

/// A message of init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A step failed; nothing of the payload has run, unless it is the last step.
    Failed { step: u32, errno: i32 },
    /// The payload was stopped by a job control signal.
    Stopped,
    /// The payload has exited.
    Exited { code: i32 },
    /// A signal has ended the payload.
    Signaled { signal: i32 },
    /// The master side of the payload's terminal comes with this message.
    Terminal,
    /// With this one, where the filter's questions are heard.
    Listener,
    /// What a step found instead of what was asked for: tolerated, and reported.
    Missed { step: u32, errno: i32 },
}

/// Bytes of a message: kind, step, value, each of four bytes in native order.
const SIZE: usize = 12;

impl Message {
    fn encode(self) -> [u8; SIZE] {
        let (kind, step, value) = match self {
            Self::Failed { step, errno } => (1, step, errno),
            Self::Stopped => (2, 0, 0),
            Self::Exited { code } => (3, 0, code),
            Self::Signaled { signal } => (6, 0, signal),
            Self::Terminal => (4, 0, 0),
            Self::Listener => (7, 0, 0),
            Self::Missed { step, errno } => (5, step, errno),
        };
        let mut bytes = [0; SIZE];
        bytes[0..4].copy_from_slice(&u32::to_ne_bytes(kind));
        bytes[4..8].copy_from_slice(&step.to_ne_bytes());
        bytes[8..12].copy_from_slice(&value.to_ne_bytes());
        bytes
    }

    fn decode(bytes: [u8; SIZE]) -> Option<Self> {
        let [k0, k1, k2, k3, s0, s1, s2, s3, v0, v1, v2, v3] = bytes;
        let step = u32::from_ne_bytes([s0, s1, s2, s3]);
        let value = i32::from_ne_bytes([v0, v1, v2, v3]);
        match u32::from_ne_bytes([k0, k1, k2, k3]) {
            1 => Some(Self::Failed { step, errno: value }),
            2 => Some(Self::Stopped),
            3 => Some(Self::Exited { code: value }),
            6 => Some(Self::Signaled { signal: value }),
            4 => Some(Self::Terminal),
            7 => Some(Self::Listener),
            5 => Some(Self::Missed { step, errno: value }),
            _ => None,
        }
    }
}

/// The two ends: the parent's and the child's.
///
/// # References
/// unix(7) `SOCK_SEQPACKET`: a message arrives whole or not at all.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends a message; the parent being gone is no error that could be told to anybody.
pub fn tell(socket: BorrowedFd<'_>, message: Message) {
    // Ignoring: when the parent is gone, this process is about to be killed.
    let _ = send(socket, &message.encode(), SendFlags::NOSIGNAL);
}

/// Sends a message with a descriptor.
pub fn tell_with(socket: BorrowedFd<'_>, message: Message, fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[std::io::IoSlice::new(&message.encode())], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

/// Receives one message; `None` when init is gone.
///
/// # Errors
/// `EAGAIN` where `flags` say so and nothing has come · `EPROTO` a message that init cannot have sent.
pub fn hear(socket: BorrowedFd<'_>, flags: RecvFlags) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; SIZE];
    let received = recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)?;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match received.bytes {
        0 => Ok(None),
        SIZE => Message::decode(bytes).map(|message| Some((message, fd))).ok_or(Errno::PROTO),
        _ => Err(Errno::PROTO),
    }
}

/// Tells the child that what it waits for is done: its maps are written, or its terminal is set up.
pub fn go_ahead(socket: impl AsFd) -> Result<(), Errno> {
    send(socket, b"g", SendFlags::NOSIGNAL).map(drop)
}

/// Waits for [`go_ahead`].
///
/// # Errors
/// `ECANCELED` the parent gave up.
pub fn await_go_ahead(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut byte = [0; 1];
    match rustix::net::recv(socket, &mut byte, RecvFlags::empty()) {
        Ok((_, 1)) => Ok(()),
        Ok(_) => Err(Errno::CANCELED),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let messages = [
            Message::Failed { step: 7, errno: 13 },
            Message::Stopped,
            Message::Exited { code: 7 },
            Message::Signaled { signal: 9 },
            Message::Terminal,
            Message::Listener,
            Message::Missed { step: u32::MAX, errno: -1 },
        ];
        for message in messages {
            assert_eq!(Message::decode(message.encode()), Some(message));
        }
        assert_eq!(Message::decode([0xff; SIZE]), None);
    }
}
