//! The caller's terminal on one side, the payload's on the other.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, read, write};
use rustix::pipe::PIPE_BUF;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, Winsize, isatty, tcgetattr, tcgetpgrp, tcgetwinsize,
    tcsetattr, tcsetwinsize,
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
    /// Which of them are terminals of the caller's: a payload that always has one has it in place of pipes and files as well.
    real: [Side; 3],
    held: Option<Held>,
    /// Whether it is raw now by this process's doing.
    raw: bool,
    /// Whether it is somebody else's just now: nothing is read from it and nothing set.
    background: bool,
    master: Option<OwnedFd>,
    typed: Typed,
    shown: Shown,
    /// Nobody has the payload's side open: its keys would be nobody's.
    deserted: bool,
    /// What has come of a standard input that is no terminal has not ended with its last line.
    line_begun: bool,
    /// When the key was typed that stops what runs in the payload's terminal.
    stop_typed: Option<Instant>,
}

/// The size of a terminal that nobody sees.
const USUAL_SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// Settings of the caller's terminal before it was made raw, and those that it has got then.
struct Held {
    before: Termios,
    raw: Termios,
}

/// Whether a terminal is this process's to read from and to set. One that does not control its session has no foreground to be in.
pub(super) fn in_foreground(terminal: BorrowedFd<'_>) -> bool {
    tcgetpgrp(terminal).map_or(true, |group| group == rustix::process::getpgrp())
}

fn alike(one: &Termios, other: &Termios) -> bool {
    (one.input_modes, one.output_modes, one.local_modes) == (other.input_modes, other.output_modes, other.local_modes)
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

    /// Takes in what standard input has now, without waiting. Returns whether it may be read at all: not in the background.
    pub(super) fn take_in(&mut self) -> bool {
        if !is_ready(rustix::stdio::stdin(), PollFlags::IN) {
            return true;
        }
        let mut buffer = [0u8; BUFFER];
        match read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => self.open = false,
            Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // SIGTTIN is blocked: termios(3) and read(2) have this error then.
            Err(Errno::IO) if !in_foreground(rustix::stdio::stdin()) => return false,
            Err(_) => self.open = false,
        }
        true
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

/// What the payload has written on the way to the caller's screen. No more is read before the screen has taken what there is: one that takes
/// nothing holds the payload up, as it would without us, and not this process, which has signals to hear and a time to keep.
pub(super) struct Shown {
    /// Without one it is lost.
    screen: Option<BorrowedFd<'static>>,
    /// The same, opened anew so that a write never waits: of that which came with the start others have a part. `None` before the first
    /// write.
    own: Option<Option<OwnedFd>>,
    pending: Vec<u8>,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    /// More may come at once.
    Some,
    /// Nothing more for now.
    All,
    /// Nobody has the other side open.
    Over,
}

impl Shown {
    pub(super) fn new(screen: Option<BorrowedFd<'static>>) -> Self {
        Self { screen, own: None, pending: Vec::new() }
    }

    pub(super) fn has_some(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What to wait for before more can be shown.
    pub(super) fn waits_for(&self) -> Option<PollFd<'_>> {
        let screen = self.own.as_ref().and_then(Option::as_ref).map(AsFd::as_fd).or(self.screen);
        screen.filter(|_| self.has_some()).map(|screen| PollFd::from_borrowed_fd(screen, PollFlags::OUT))
    }

    /// One read, where nothing is left of those before, and as much of its writing as does not wait.
    pub(super) fn pump(&mut self, from: BorrowedFd<'_>) -> Pumped {
        if !self.give() {
            return Pumped::All;
        }
        let mut buffer = [0u8; BUFFER];
        match read(from, &mut buffer) {
            // EIO: a terminal that nobody has open.
            Ok(0) | Err(Errno::IO) => Pumped::Over,
            Ok(count) => {
                self.pending.extend_from_slice(&buffer[..count]);
                if self.give() { Pumped::Some } else { Pumped::All }
            }
            Err(Errno::INTR) => Pumped::Some,
            Err(_) => Pumped::All,
        }
    }

    /// Returns whether all is written.
    fn give(&mut self) -> bool {
        /// Where a write may wait, it is for this much at most.
        const LITTLE: usize = 64;
        let Some(screen) = self.screen.filter(|_| self.has_some()) else {
            self.pending.clear();
            return true;
        };
        let own = self.own.get_or_insert_with(|| open_anew(screen)).as_ref();
        let most = match own {
            Some(_) => usize::MAX,
            None if isatty(screen) => LITTLE,
            // A pipe that takes something takes that much: pipe(7).
            None => PIPE_BUF,
        };
        let mut rest: &[u8] = &self.pending;
        while !rest.is_empty() && (own.is_some() || is_ready(screen, PollFlags::OUT)) {
            match write(own.map_or(screen, AsFd::as_fd), &rest[..rest.len().min(most)]) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Nobody looks any more.
                Err(_) => rest = &[],
            }
        }
        let written = self.pending.len() - rest.len();
        self.pending.drain(..written);
        self.pending.is_empty()
    }
}

/// A terminal that is behind a descriptor, opened once more (proc_pid_fd(5)). `None` for one that belongs to another user by now, and for files,
/// which would be written from their beginning.
fn open_anew(screen: BorrowedFd<'_>) -> Option<OwnedFd> {
    if !isatty(screen) {
        return None;
    }
    let path = format!("/proc/self/fd/{}", screen.as_raw_fd());
    openat(CWD, path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()
}

impl Terminal {
    /// `sides` are the descriptors that the payload gets its own terminal for.
    pub fn new(sides: [Side; 3]) -> Self {
        let screen = match sides {
            [_, true, _] => Some(rustix::stdio::stdout()),
            [_, _, true] => Some(rustix::stdio::stderr()),
            _ => None,
        };
        let outside = self::sides();
        Self {
            sides,
            real: std::array::from_fn(|side| sides[side] && outside[side]),
            held: None,
            raw: false,
            background: false,
            master: None,
            typed: Typed::new(sides[0]),
            shown: Shown::new(screen),
            deserted: false,
            line_begun: false,
            stop_typed: None,
        }
    }

    /// There is a keyboard, and the payload's screen is its terminal: then every key goes to the payload as it is.
    fn wants_raw(&self) -> bool {
        self.real[0] && self.sides[1]
    }

    /// Whether what the payload writes is shown by a terminal, which translates it.
    fn is_shown(&self) -> bool {
        if self.sides[1] { self.real[1] } else { self.real[2] }
    }

    /// A descriptor of the caller's terminal, where there is one.
    fn own(&self) -> BorrowedFd<'static> {
        if self.real[0] {
            rustix::stdio::stdin()
        } else if self.real[1] {
            rustix::stdio::stdout()
        } else {
            rustix::stdio::stderr()
        }
    }

    /// Takes the payload's side into service: settings and size of the caller's terminal go to it, or those that terminals begin with.
    pub fn connect(&mut self, master: OwnedFd) -> Result<(), Errno> {
        rustix::io::ioctl_fionbio(&master, true)?;
        // In the background it may have the settings of a shell that edits lines, which are nobody else's.
        let settings = if self.real.contains(&true) && in_foreground(self.own()) { tcgetattr(self.own()) } else { tcgetattr(&master) };
        if let Ok(mut settings) = settings {
            if !self.wants_raw() {
                // The caller's terminal stays as it is, and echoes already; what comes from elsewhere is not typed.
                settings.local_modes.remove(LocalModes::ECHO);
                settings.output_modes.set(OutputModes::OPOST, settings.output_modes.contains(OutputModes::OPOST) && !self.is_shown());
            }
            tcsetattr(&master, OptionalActions::Now, &settings)?;
        }
        if !self.real.contains(&true) {
            // Ignoring: as where there is a terminal.
            let _ = tcsetwinsize(&master, USUAL_SIZE);
        }
        self.master = Some(master);
        self.take();
        Ok(())
    }

    /// Raw mode, where this process is in the foreground; in the background the terminal belongs to somebody else.
    pub fn take(&mut self) {
        self.resize();
        self.background = !in_foreground(self.own());
        if self.background {
            self.leave();
        } else if self.wants_raw() && !self.deserted {
            // Ignoring: a terminal that takes no settings is used as it is.
            let _ = self.make_raw();
        }
    }

    fn make_raw(&mut self) -> Result<(), Errno> {
        let before = tcgetattr(self.own())?;
        let held = self.held.take().filter(|held| alike(&held.raw, &before));
        self.raw = held.is_some();
        if self.raw {
            // A shell has put it back as it was when this process stopped.
            self.held = held;
            return Ok(());
        }
        let mut raw = before.clone();
        raw.make_raw();
        // UTF-8 erasing is the inner terminal's business.
        raw.input_modes.remove(InputModes::IUTF8);
        tcsetattr(self.own(), OptionalActions::Now, &raw)?;
        self.held = Some(Held { before, raw: tcgetattr(self.own())? });
        self.raw = true;
        Ok(())
    }

    /// The terminal has become another's. Who took it over raw would not know what it was like before.
    fn leave(&mut self) {
        let untouched = |held: &Held| tcgetattr(self.own()).is_ok_and(|settings| alike(&settings, &held.raw));
        if self.held.as_ref().is_some_and(untouched) {
            self.release();
        }
        self.raw = false;
    }

    /// Whether to look from time to time if the terminal has come back, or the payload's has somebody: nobody tells of that, not a shell that
    /// brings a job that runs to the foreground.
    pub fn looks_again(&self) -> bool {
        self.deserted || self.background && self.real[0] && self.typed.wants_more()
    }

    /// Gives the caller's terminal back as it was.
    pub fn release(&mut self) {
        if let (true, Some(held)) = (self.raw, &self.held) {
            // Ignoring: a terminal that is gone needs no restoring.
            let _ = tcsetattr(self.own(), OptionalActions::Now, &held.before);
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
        // What is no terminal is nobody else's at any time.
        let may_read = !self.real[0] || !self.background && (self.raw || !self.wants_raw());
        self.master.is_some() && self.typed.wants_more() && !self.deserted && may_read
    }

    /// What to wait for.
    pub fn add_to<'a>(&'a self, list: &mut Vec<PollFd<'a>>) {
        let Some(master) = &self.master else { return };
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, !self.shown.has_some());
        wanted.set(PollFlags::OUT, self.typed.has_some());
        // One that nobody has open is ready for ever.
        if !wanted.is_empty() && !self.deserted {
            list.push(PollFd::new(master, wanted));
        }
        list.extend(self.shown.waits_for());
        if self.reads() {
            list.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
        }
    }

    /// Moves what there is, in both directions, without waiting.
    pub fn pump(&mut self) {
        if self.background {
            self.take();
        }
        self.pump_out();
        self.pump_in();
    }

    /// Returns whether more may come at once.
    pub fn pump_out(&mut self) -> bool {
        let Some(master) = &self.master else { return false };
        let pumped = self.shown.pump(master.as_fd());
        if self.deserted != (pumped == Pumped::Over) {
            self.deserted = !self.deserted;
            // Ctrl-C is a signal again, or a key.
            if self.deserted { self.release() } else { self.take() }
        }
        pumped == Pumped::Some
    }

    /// Shows what the payload has written before it stopped: as much as its terminal may hold.
    pub fn catch_up(&mut self) {
        const READS: usize = 16;
        let _ = (0..READS).take_while(|_| self.pump_out()).count();
    }

    /// What is still to be shown.
    pub fn waits_for(&self) -> Option<PollFd<'_>> {
        self.shown.waits_for()
    }

    fn pump_in(&mut self) {
        if self.reads() {
            if !self.typed.take_in() {
                self.take();
            }
            self.look_for_end();
            self.look_for_stop();
        }
        if let Some(master) = &self.master {
            // Ignoring: what cannot be given now is tried again, and the payload's end is seen elsewhere.
            let _ = self.typed.give(master);
        }
    }

    /// An end that was typed is one key of many, and ends what the payload reads just now; a terminal that is gone types nothing. The end of
    /// what is no terminal is that key, the last one; in the midst of a line it ends that alone, and is typed again (termios(3)).
    fn look_for_end(&mut self) {
        self.line_begun = self.typed.pending.last().map_or(self.line_begun, |last| !b"\r\n".contains(last));
        if self.typed.open || self.real[0] && tcgetattr(rustix::stdio::stdin()).is_err() {
            return;
        }
        if let Some(settings) = self.master.as_ref().and_then(|master| tcgetattr(master).ok()) {
            let times = if self.line_begun && !self.real[0] { 2 } else { 1 };
            self.typed.pending.extend(std::iter::repeat_n(settings.special_codes[SpecialCodeIndex::VEOF], times));
            self.typed.open = self.real[0];
        }
    }

    /// The key counts as the payload's terminal has it now, or the caller's had it: a payload may read all keys itself, and stop at this one. Where
    /// the caller's is not raw, it is a signal for all and is never read here.
    fn look_for_stop(&mut self) {
        if !self.raw || self.typed.pending.is_empty() {
            return;
        }
        let inner = self.master.as_ref().and_then(|master| tcgetattr(master).ok());
        let both = inner.iter().chain(self.held.as_ref().map(|held| &held.before));
        let mut keys = both.map(|settings| settings.special_codes[SpecialCodeIndex::VSUSP]).filter(|key| *key != 0);
        if keys.any(|key| self.typed.pending.contains(&key)) {
            self.stop_typed = Some(Instant::now());
        }
    }

    /// When a stop was typed, told once.
    pub fn take_stop_typed(&mut self) -> Option<Instant> {
        self.stop_typed.take()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.release();
    }
}

fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}
