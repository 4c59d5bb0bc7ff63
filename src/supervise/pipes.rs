//! The caller's terminal on one side, pipes on the other: for a payload that is to see no terminal.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::SuperviseError;
use super::terminal::{Pumped, Shown, Side, Typed, in_foreground};

/// What the parent holds of them; a side that is no terminal of the caller has none.
pub struct Pipes {
    /// Where the payload's standard input is written.
    input: Option<OwnedFd>,
    /// Where its standard output and error are read.
    outputs: [Option<OwnedFd>; 2],
    typed: Typed,
    shown: [Shown; 2],
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
        let shown = [rustix::stdio::stdout(), rustix::stdio::stderr()].map(|screen| Shown::new(Some(screen)));
        Ok((Self { input, outputs: [output, error], typed: Typed::new(true), shown }, [stdin, stdout, stderr]))
    }

    fn may_read(&self) -> bool {
        self.input.is_some() && self.typed.wants_more()
    }

    fn reads(&self) -> bool {
        self.may_read() && in_foreground(rustix::stdio::stdin())
    }

    /// Whether to look from time to time if the terminal has come back, as [`Terminal`](super::Terminal) does.
    pub fn looks_again(&self) -> bool {
        self.may_read() && !in_foreground(rustix::stdio::stdin())
    }

    /// What to wait for.
    pub fn add_to<'a>(&'a self, list: &mut Vec<PollFd<'a>>) {
        for (output, shown) in self.outputs.iter().zip(&self.shown) {
            let output = output.as_ref().filter(|_| !shown.has_some());
            list.extend(output.map(|output| PollFd::new(output, PollFlags::IN)).or_else(|| shown.waits_for()));
        }
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
    pub fn pump_out(&mut self) -> bool {
        let mut more = false;
        for (output, shown) in self.outputs.iter_mut().zip(&mut self.shown) {
            let Some(from) = output else { continue };
            match shown.pump(from.as_fd()) {
                // Given back: it would be ready for ever.
                Pumped::Over => *output = None,
                pumped => more |= pumped == Pumped::Some,
            }
        }
        more
    }

    /// What is still to be shown.
    pub fn waits_for(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.shown.iter().filter_map(Shown::waits_for)
    }

    fn pump_in(&mut self) {
        if self.reads() {
            // Ignoring: whether it is in the foreground is looked at each time.
            let _ = self.typed.take_in();
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
}
