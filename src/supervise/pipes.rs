//! The caller's terminal on one side, pipes on the other: for a payload that is to see no terminal.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, read};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::tcgetpgrp;

use super::SuperviseError;
use super::terminal::{BUFFER, Side, Typed, show};

/// What the parent holds of them; a side that is no terminal of the caller has none.
pub struct Pipes {
    /// Where the payload's standard input is written.
    input: Option<OwnedFd>,
    /// Where its standard output and error are read.
    outputs: [Option<OwnedFd>; 2],
    typed: Typed,
}

impl Pipes {
    /// Pipes for these descriptors, and the ends that become the payload's.
    ///
    /// # Errors
    /// [`SuperviseError::Call`]: `EMFILE`, `ENFILE`.
    pub fn new(sides: [Side; 3]) -> Result<(Self, [Option<OwnedFd>; 3]), SuperviseError> {
        let wrap = |source| SuperviseError::Call { act: "make pipes in place of the terminal", source };
        let pipe = |wanted: bool| wanted.then(|| pipe_with(PipeFlags::CLOEXEC).map_err(wrap)).transpose();
        let (stdin, input) = pipe(sides[0])?.unzip();
        let (output, stdout) = pipe(sides[1])?.unzip();
        let (error, stderr) = pipe(sides[2])?.unzip();
        for own in [&input, &output, &error].into_iter().flatten() {
            rustix::io::ioctl_fionbio(own, true).map_err(wrap)?;
        }
        Ok((Self { input, outputs: [output, error], typed: Typed::new(true) }, [stdin, stdout, stderr]))
    }

    /// A process in the background would be stopped for reading what is typed for another.
    fn reads(&self) -> bool {
        let foreground = || tcgetpgrp(rustix::stdio::stdin()).map_or(true, |group| group == rustix::process::getpgrp());
        self.input.is_some() && self.typed.wants_more() && foreground()
    }

    /// What to wait for.
    pub fn add_to<'a>(&'a self, list: &mut Vec<PollFd<'a>>) {
        list.extend(self.outputs.iter().flatten().map(|output| PollFd::new(output, PollFlags::IN)));
        if let Some(input) = self.input.as_ref().filter(|_| self.typed.has_some()) {
            list.push(PollFd::new(input, PollFlags::OUT));
        }
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
        let screens = [rustix::stdio::stdout(), rustix::stdio::stderr()];
        let mut more = false;
        for (output, screen) in self.outputs.iter_mut().zip(screens) {
            more |= move_out(output, screen);
        }
        more
    }

    fn pump_in(&mut self) {
        if self.reads() {
            self.typed.take_in();
        }
        if let Some(input) = &self.input
            && self.typed.give(input).is_err()
        {
            self.typed.give_up();
        }
        if self.typed.has_ended() {
            self.input = None;
        }
    }

    /// Shows what the pipes still hold after everything inside has ended.
    pub fn drain(&mut self) {
        while self.pump_out() {}
    }
}

/// One read and its writing; the descriptor is given back when the other side has ended, since it would be ready for ever.
fn move_out(from: &mut Option<OwnedFd>, screen: BorrowedFd<'_>) -> bool {
    let Some(fd) = from else { return false };
    let mut buffer = [0u8; BUFFER];
    match read(&*fd, &mut buffer) {
        Ok(0) => {
            *from = None;
            false
        }
        Ok(count) => {
            show(screen, &buffer[..count]);
            true
        }
        Err(Errno::INTR) => true,
        Err(_) => false,
    }
}
