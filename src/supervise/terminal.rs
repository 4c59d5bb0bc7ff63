//! The caller's terminal on one side, the payload's on the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, read, write};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr, tcsetwinsize,
};

/// Which of the descriptors 0, 1, 2 are terminals.
pub fn sides() -> [bool; 3] {
    [isatty(rustix::stdio::stdin()), isatty(rustix::stdio::stdout()), isatty(rustix::stdio::stderr())]
}

/// What a descriptor of the payload is.
pub type Side = bool;

/// Bytes that are moved at once.
pub(super) const BUFFER: usize = 8192;

/// The caller's terminal, and what it was like before.
pub struct Terminal {
    sides: [Side; 3],
    saved: Option<Termios>,
    raw: bool,
    master: Option<OwnedFd>,
    typed: Typed,
}

/// What the caller types on the way to the payload. No more is read before the payload has taken what there is.
pub(super) struct Typed {
    pending: Vec<u8>,
    /// Until the end of the input was typed, or there is nobody left to type.
    open: bool,
}

impl Typed {
    pub(super) fn new(open: bool) -> Self {
        Self { pending: Vec::new(), open }
    }

    pub(super) fn wants_more(&self) -> bool {
        self.open && self.pending.is_empty()
    }

    pub(super) fn has_some(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn has_ended(&self) -> bool {
        !self.open && self.pending.is_empty()
    }

    /// Takes in what standard input has now, without waiting.
    pub(super) fn take_in(&mut self) {
        if !is_readable(rustix::stdio::stdin()) {
            return;
        }
        let mut buffer = [0u8; BUFFER];
        match read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => self.open = false,
            Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.open = false,
        }
    }

    /// Gives as much as the payload's side takes without waiting.
    ///
    /// # Errors
    /// Of write(2): `EPIPE` nobody reads any more · `EIO` nobody has the terminal open.
    pub(super) fn give(&mut self, to: impl AsFd) -> Result<(), Errno> {
        while !self.pending.is_empty() {
            match write(&to, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Nobody will ever take it.
    pub(super) fn give_up(&mut self) {
        self.pending.clear();
        self.open = false;
    }
}

impl Terminal {
    /// `sides` are the descriptors that the payload gets its own terminal for.
    pub fn new(sides: [Side; 3]) -> Self {
        Self { sides, saved: None, raw: false, master: None, typed: Typed::new(sides[0]) }
    }

    /// Keyboard and screen are both the terminal: then every key goes to the payload as it is.
    fn wants_raw(&self) -> bool {
        self.sides[0] && self.sides[1]
    }

    /// A descriptor of the caller's terminal.
    fn own(&self) -> BorrowedFd<'static> {
        if self.sides[0] {
            rustix::stdio::stdin()
        } else if self.sides[1] {
            rustix::stdio::stdout()
        } else {
            rustix::stdio::stderr()
        }
    }

    /// Takes the payload's side into service: settings and size of the caller's terminal go to it.
    pub fn connect(&mut self, master: OwnedFd) -> Result<(), Errno> {
        rustix::io::ioctl_fionbio(&master, true)?;
        if let Ok(mut settings) = tcgetattr(self.own()) {
            if !self.wants_raw() {
                // The caller's terminal stays as it is: it echoes and translates already.
                settings.local_modes.remove(LocalModes::ECHO);
                settings.output_modes.remove(OutputModes::OPOST);
            }
            tcsetattr(&master, OptionalActions::Now, &settings)?;
        }
        self.master = Some(master);
        self.take();
        Ok(())
    }

    /// Raw mode, where this process is in the foreground; in the background the terminal belongs to somebody else.
    pub fn take(&mut self) {
        self.resize();
        // A terminal that does not control this session has no foreground to be in.
        let foreground = tcgetpgrp(self.own()).map_or(true, |group| group == rustix::process::getpgrp());
        if !foreground || !self.wants_raw() || self.raw {
            return;
        }
        let Ok(settings) = tcgetattr(self.own()) else { return };
        let mut raw = settings.clone();
        raw.make_raw();
        // UTF-8 erasing is the inner terminal's business.
        raw.input_modes.remove(InputModes::IUTF8);
        if tcsetattr(self.own(), OptionalActions::Drain, &raw).is_ok() {
            self.saved = Some(settings);
            self.raw = true;
        }
    }

    /// Gives the caller's terminal back as it was.
    pub fn release(&mut self) {
        if let Some(saved) = self.saved.take() {
            // Ignoring: a terminal that is gone needs no restoring.
            let _ = tcsetattr(self.own(), OptionalActions::Drain, &saved);
        }
        self.raw = false;
    }

    pub fn resize(&mut self) {
        if let (Some(master), Ok(size)) = (&self.master, tcgetwinsize(self.own())) {
            // Ignoring: a wrong size is no reason to end anything.
            let _ = tcsetwinsize(master, size);
        }
    }

    fn reads(&self) -> bool {
        self.typed.wants_more() && (self.raw || !self.wants_raw())
    }

    /// What to wait for.
    pub fn add_to<'a>(&'a self, list: &mut Vec<PollFd<'a>>) {
        let Some(master) = &self.master else { return };
        let wanted = if self.typed.has_some() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        list.push(PollFd::new(master, wanted));
        if self.reads() {
            list.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
        }
    }

    /// Moves what there is, in both directions, without waiting.
    pub fn pump(&mut self) {
        self.pump_out();
        self.pump_in();
    }

    /// Returns whether more may come at once.
    fn pump_out(&mut self) -> bool {
        let Some(master) = &self.master else { return false };
        let mut buffer = [0u8; BUFFER];
        match read(master, &mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.show(&buffer[..count]);
                true
            }
            Err(Errno::INTR) => true,
            // EIO: nobody has the payload's side open.
            Err(_) => false,
        }
    }

    fn show(&self, bytes: &[u8]) {
        match self.sides {
            [_, true, _] => show(rustix::stdio::stdout(), bytes),
            [_, _, true] => show(rustix::stdio::stderr(), bytes),
            _ => {}
        }
    }

    fn pump_in(&mut self) {
        if self.reads() {
            self.typed.take_in();
        }
        if let Some(master) = &self.master {
            // Ignoring: what cannot be given now is tried again, and the payload's end is seen elsewhere.
            let _ = self.typed.give(master);
        }
    }

    /// Shows what the payload's terminal still holds after everything inside has ended.
    pub fn drain(&mut self) {
        while self.pump_out() {}
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.release();
    }
}

/// Writes all of it, and waits where the screen is slow.
pub(super) fn show(screen: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match write(screen, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_writable(screen),
            Err(_) => return,
        }
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}

fn wait_writable(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT)];
    // Ignoring: the write that follows tells what is wrong.
    let _ = rustix::event::poll(&mut fds, None);
}
