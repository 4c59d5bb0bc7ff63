//! A running sandbox in, its outcome out: signals, terminal, deadline, replaced files, and what is cleaned up afterwards.

mod appearing;
mod attributes;
mod pipes;
mod terminal;
mod watch;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Signal, WaitIdStatus};
use rustix::time::Timespec;

use crate::launch::Running;
use crate::launch::wire::{Message, hear};
pub use crate::launch::{Got, Usage};
use crate::sys;
use attributes::Attributes;

pub use appearing::{Appearing, Sign};
pub use attributes::Writable;
pub use pipes::Pipes;
pub use terminal::{Side, Terminal, sides};
use watch::Watch;
pub use watch::{WatchError, Watched};

/// How a sandbox is watched over.
pub struct Orders {
    /// The caller's terminal, where the payload has one of its own.
    pub terminal: Option<Terminal>,
    /// What stands between the caller's terminal and a payload that is to see none.
    pub pipes: Option<Pipes>,
    /// The project and what is guarded in it: the sandbox ends when the host replaces one of them.
    pub watched: Option<(PathBuf, Vec<Watched>)>,
    /// Below which the payload may change modes and times, where it has to ask for that.
    pub writable: Vec<Writable>,
    /// What git obeys in the project, and is not there.
    pub appearing: Option<Appearing>,
    /// Only warn then.
    pub warn_only: bool,
    /// Wall clock limit.
    pub limit: Option<Duration>,
    /// Sent when the limit is reached.
    pub stop_signal: Signal,
    /// From the stop signal to SIGKILL.
    pub stop_timeout: Duration,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The payload exited by itself.
    Exited(i32),
    /// A signal ended the payload.
    Signaled(i32),
    /// The time limit ended it.
    TimeLimit,
    /// A step failed: the payload never ran.
    Failed { step: u32, errno: Errno },
    /// The host replaced a guarded file.
    Replaced(PathBuf),
    /// The kernel has killed it at its `memory.max`, in bytes, or for want of memory that is nobody's alone.
    MemoryLimit(Option<u64>),
    /// The process that would clean up after a run was killed, with whatever else was in the caller's cgroup.
    CleanupKilled,
    /// Init is gone without a word: somebody killed it.
    Lost,
}

/// How it ended, and what was found on the way.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub end: End,
    /// Tolerated: the step and its errno.
    pub missed: Vec<(u32, Errno)>,
    /// Guarded paths that the host replaced while the sandbox was let go on.
    pub replaced: Vec<PathBuf>,
    /// What git on the host obeys, and did not before.
    pub appeared: Vec<Sign>,
}

#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error("cannot {act}")]
    Call { act: &'static str, source: Errno },
    #[error(transparent)]
    Watch(#[from] WatchError),
}

fn cannot(act: &'static str) -> impl Fn(Errno) -> SuperviseError {
    move |source| SuperviseError::Call { act, source }
}

/// Watches over a sandbox until everything in it is gone.
///
/// Signals must be blocked since before the clone.
///
/// # Errors
/// [`SuperviseError`]: the sandbox has been ended.
pub fn supervise(running: &mut Running, orders: Orders) -> Result<Outcome, SuperviseError> {
    let signals = signal_fd()?;
    let mut supervision = Supervision {
        running,
        orders,
        missed: Vec::new(),
        end: None,
        stage: Stage::Running,
        started: Instant::now(),
        watch: None,
        attributes: None,
        replaced: Vec::new(),
        hung_up: false,
        settled: false,
        waited_idle: false,
        stop_passed_on: None,
    };
    let end = supervision.run(&signals);
    if end.is_err() {
        // A payload must not outlive what answers for it.
        supervision.end_now();
    }
    supervision.attributes.iter().for_each(await_end);
    let end = end?;
    let Supervision { mut orders, missed, mut replaced, watch, started, .. } = supervision;
    if let (Some((project, paths)), false) = (&orders.watched, matches!(end, End::Replaced(_))) {
        // What no event has told: it did not last long enough to be watched, or the last of them were not read.
        let found: Vec<PathBuf> = watch::replaced(project, paths).filter(|path| !is_below(path, &replaced)).collect();
        replaced.extend(found);
    }
    // Not closed but left to the process's end, or to whoever holds it by then: closing takes some ten milliseconds.
    std::mem::forget(watch);
    let patience = orders.limit.and_then(|limit| started.checked_add(limit)?.max(Instant::now()).checked_add(orders.stop_timeout));
    show_the_rest(&mut orders, &signals, patience);
    std::mem::forget(signals);
    let appeared = orders.appearing.take().map(Appearing::appeared).unwrap_or_default();
    Ok(Outcome { end, missed, replaced, appeared })
}

/// Nobody can ask any more: unless it waits for an answer itself, it is over in a moment, and what comes next has one thread.
fn await_end(attributes: &JoinHandle<()>) {
    let patience = Instant::now() + Duration::from_secs(1);
    while !attributes.is_finished() && Instant::now() < patience {
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn is_below(path: &Path, known: &[PathBuf]) -> bool {
    known.iter().any(|known| path.starts_with(known))
}

/// Shows what the payload has written and nobody has seen yet, while somebody looks: a screen that takes nothing does not hold up one who is told to
/// end, or has a time limit.
fn show_the_rest(orders: &mut Orders, signals: &SignalFd, patience: Option<Instant>) {
    loop {
        let more = [orders.terminal.as_mut().is_some_and(Terminal::pump_out), orders.pipes.as_mut().is_some_and(Pipes::pump_out)];
        let more = more.contains(&true);
        let mut list: Vec<PollFd<'_>> = orders.terminal.iter().filter_map(Terminal::waits_for).collect();
        list.extend(orders.pipes.iter().flat_map(Pipes::waits_for));
        if list.is_empty() && !more || patience.is_some_and(|end| Instant::now() >= end) {
            return;
        }
        list.push(PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN));
        let left = patience.map(|end| timespec(end.saturating_duration_since(Instant::now())));
        if !more {
            // Ignoring: what comes next tells what is wrong.
            let _ = poll(&mut list, left.as_ref());
        }
        const ENDS: [NixSignal; 4] = [NixSignal::SIGHUP, NixSignal::SIGINT, NixSignal::SIGQUIT, NixSignal::SIGTERM];
        let told = signals.read_signal().ok().flatten();
        if told.is_some_and(|told| ENDS.iter().any(|signal| *signal as u32 == told.ssi_signo)) {
            return;
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(duration.subsec_nanos()) }
}

/// Every signal but SIGCHLD, which is not needed beside a pidfd and a socket.
fn signal_fd() -> Result<SignalFd, SuperviseError> {
    let mut signals = SigSet::all();
    signals.remove(NixSignal::SIGCHLD);
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|errno| SuperviseError::Call { act: "make a signalfd", source: Errno::from_raw_os_error(errno as i32) })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// The stop signal was sent at the limit.
    Stopping,
    /// SIGKILL was sent.
    Killed,
}

struct Supervision<'a> {
    running: &'a mut Running,
    orders: Orders,
    missed: Vec<(u32, Errno)>,
    end: Option<End>,
    stage: Stage,
    started: Instant,
    watch: Option<Watch>,
    /// Who answers for what the payload may not do itself.
    attributes: Option<JoinHandle<()>>,
    replaced: Vec<PathBuf>,
    /// Init, or the payload that took its place, has closed its end: now only its own end is waited for.
    hung_up: bool,
    /// Whether the run has lasted, and what only a start needs was given back.
    settled: bool,
    waited_idle: bool,
    /// When this process was told to stop, and has told the payload.
    stop_passed_on: Option<Instant>,
}

/// How long a run goes on before it is taken to last: then its guarded files are watched, and memory is given back.
const SETTLE: Duration = Duration::from_millis(250);

/// How often a run looks for what nobody tells it: whether it has come to the foreground, and whether its payload has opened its terminal.
const A_WHILE: Duration = Duration::from_millis(500);

/// Indexes of the descriptors that are always polled; those of terminal and watch follow.
const SOCKET: usize = 0;
const SIGNALS: usize = 1;

impl Supervision<'_> {
    fn run(&mut self, signals: &SignalFd) -> Result<End, SuperviseError> {
        loop {
            let ready = self.wait(signals.as_fd())?;
            if ready.signals {
                self.take_signals(signals)?;
            }
            if let Some(terminal) = &mut self.orders.terminal {
                terminal.pump();
            }
            if let Some(pipes) = &mut self.orders.pipes {
                pipes.pump();
            }
            if ready.watch {
                self.look_at_watch()?;
            }
            if ready.socket && self.hung_up {
                return self.last_word();
            }
            if ready.socket && self.take_messages()? {
                return Ok(self.end.take().unwrap_or(End::Lost));
            }
            self.keep_time()?;
        }
    }

    fn wait(&mut self, signals: BorrowedFd<'_>) -> Result<Ready, SuperviseError> {
        let mut list: Vec<PollFd<'_>> = Vec::with_capacity(5);
        let word = if self.hung_up { &self.running.pidfd } else { &self.running.socket };
        list.push(PollFd::new(word, PollFlags::IN));
        list.push(PollFd::from_borrowed_fd(signals, PollFlags::IN));
        if let Some(watch) = &self.watch {
            list.push(PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN));
        }
        if let Some(terminal) = &self.orders.terminal {
            terminal.add_to(&mut list);
        }
        if let Some(pipes) = &self.orders.pipes {
            pipes.add_to(&mut list);
        }
        let timeout = self.timeout();
        // Once settled, the first wait gives back what the start has touched; a busy terminal is not kept waiting for that.
        let result = if self.settled && !self.waited_idle {
            self.waited_idle = true;
            sys::poll_idle(&mut list, timeout.as_ref())
        } else {
            poll(&mut list, timeout.as_ref()).map(drop)
        };
        match result {
            Ok(()) | Err(Errno::INTR) => {}
            Err(errno) => return Err(cannot("wait for events")(errno)),
        }
        let is_ready = |index: usize| !list[index].revents().is_empty();
        Ok(Ready { socket: is_ready(SOCKET), signals: is_ready(SIGNALS), watch: self.watch.is_some() && is_ready(SIGNALS + 1) })
    }

    fn timeout(&self) -> Option<Timespec> {
        let next = self.deadline().into_iter().chain(self.settle_due()).min();
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        left.into_iter().chain(self.looks_again().then_some(A_WHILE)).min().map(timespec)
    }

    fn looks_again(&self) -> bool {
        let terminal = self.orders.terminal.as_ref().is_some_and(Terminal::looks_again);
        terminal || self.orders.pipes.as_ref().is_some_and(Pipes::looks_again)
    }

    fn deadline(&self) -> Option<Instant> {
        let limit = self.orders.limit?;
        match self.stage {
            Stage::Running => self.started.checked_add(limit),
            Stage::Stopping => self.started.checked_add(limit)?.checked_add(self.orders.stop_timeout),
            Stage::Killed => None,
        }
    }

    /// When the run is taken to last, until then.
    fn settle_due(&self) -> Option<Instant> {
        if self.settled { None } else { self.started.checked_add(SETTLE) }
    }

    /// What only a run that lasts needs, or can spare.
    fn settle(&mut self) -> Result<(), SuperviseError> {
        self.settled = true;
        if self.stage != Stage::Killed {
            self.begin_watch()?;
        }
        sys::forget_stack();
        Ok(())
    }

    fn begin_watch(&mut self) -> Result<(), SuperviseError> {
        let Some((project, paths)) = &self.orders.watched else { return Ok(()) };
        let (watch, replaced) = Watch::new(project, paths)?;
        self.watch = Some(watch);
        replaced.map_or(Ok(()), |path| self.take_replaced(path))
    }

    /// Also while the payload takes its time to end, which stays the reason then.
    fn take_replaced(&mut self, path: PathBuf) -> Result<(), SuperviseError> {
        if matches!(self.end, Some(End::Replaced(_))) {
            return Ok(());
        }
        if self.end.is_none() && !self.orders.warn_only {
            self.end = Some(End::Replaced(path));
        } else if !self.replaced.contains(&path) {
            self.replaced.push(path);
        }
        if self.orders.warn_only { Ok(()) } else { self.kill() }
    }

    fn keep_time(&mut self) -> Result<(), SuperviseError> {
        if self.settle_due().is_some_and(|due| Instant::now() >= due) {
            self.settle()?;
        }
        if self.deadline().is_none_or(|deadline| Instant::now() < deadline) {
            return Ok(());
        }
        self.end = Some(End::TimeLimit);
        match self.stage {
            Stage::Running => {
                self.stage = Stage::Stopping;
                self.send(self.orders.stop_signal)?;
                // One that is stopped would not hear it.
                self.send(Signal::CONT)
            }
            Stage::Stopping | Stage::Killed => self.kill(),
        }
    }

    fn kill(&mut self) -> Result<(), SuperviseError> {
        self.stage = Stage::Killed;
        sent(self.running.kill())
    }

    /// Ends the sandbox, and waits until it is gone.
    fn end_now(&mut self) {
        // Ignoring: it is gone already, which is what is wanted.
        let _ = self.running.kill();
        let _ = self.running.reap();
    }

    fn send(&self, signal: Signal) -> Result<(), SuperviseError> {
        sent(self.running.signal(signal))
    }

    fn look_at_watch(&mut self) -> Result<(), SuperviseError> {
        let replaced = self.watch.as_mut().map(Watch::replaced).transpose()?.flatten();
        replaced.map_or(Ok(()), |path| self.take_replaced(path))
    }

    fn look_at_guarded(&mut self) -> Result<(), SuperviseError> {
        let found = self.orders.watched.as_ref().and_then(|(project, paths)| watch::replaced(project, paths).next());
        found.map_or(Ok(()), |path| self.take_replaced(path))
    }

    fn take_signals(&mut self, signals: &SignalFd) -> Result<(), SuperviseError> {
        while let Ok(Some(info)) = signals.read_signal() {
            let Some(signal) = i32::try_from(info.ssi_signo).ok().and_then(Signal::from_named_raw) else { continue };
            match signal {
                Signal::WINCH if self.orders.terminal.is_some() => self.resize(),
                // The cleanup process of the run's cgroup was killed, and with it whatever else is in the caller's: here it is this run.
                Signal::CONT if sys::cleanup_has_ended() => {
                    self.end = Some(End::CleanupKilled);
                    self.kill()?;
                }
                Signal::CONT => self.resume()?,
                // The kernel's own word to this process about a terminal that it does not own just now.
                Signal::TTIN | Signal::TTOU => {}
                // Or about what it has written and nobody reads, a line of its own or what was typed for the payload: that comes as from itself.
                Signal::PIPE if info.ssi_pid == std::process::id() => {}
                // A run with a time limit never stops its clock, and so is not stopped; nor is what else was at once, since its shell waits for all.
                Signal::TSTP if self.orders.limit.is_some() => {
                    rustix::process::kill_current_process_group(Signal::CONT).map_err(cannot("continue the job"))?;
                }
                signal => {
                    if signal == Signal::TSTP {
                        self.stop_passed_on = Some(Instant::now());
                    }
                    self.send(signal)?;
                }
            }
        }
        Ok(())
    }

    fn resize(&mut self) {
        if let Some(terminal) = &mut self.orders.terminal {
            terminal.resize();
        }
    }

    /// Everything that init has said. Returns whether it is gone or has said its last word.
    fn take_messages(&mut self) -> Result<bool, SuperviseError> {
        loop {
            match hear(self.running.socket.as_fd(), RecvFlags::DONTWAIT) {
                Ok(None) => {
                    self.hung_up = true;
                    return Ok(false);
                }
                Ok(Some((message, fd))) => {
                    if self.take_message(message, fd)? {
                        return Ok(true);
                    }
                }
                Err(Errno::AGAIN) => return Ok(false),
                // A child that has failed before it read our last word makes this error, told once and before what it has said itself.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(errno) => return Err(cannot("hear from the sandbox")(errno)),
            }
        }
    }

    /// Without a message of init its own end tells: it was killed, or it was the payload.
    fn last_word(&mut self) -> Result<End, SuperviseError> {
        let status = self.running.reap().map_err(cannot("wait for the sandbox to end"))?;
        let own = |status: &WaitIdStatus| match (status.exit_status(), status.terminating_signal()) {
            _ if self.running.init => End::Lost,
            (Some(code), _) => End::Exited(code),
            (None, Some(signal)) => End::Signaled(signal),
            (None, None) => End::Lost,
        };
        let end = status.as_ref().map_or(End::Lost, own);
        Ok(self.end.take().unwrap_or(end))
    }

    fn take_message(&mut self, message: Message, fd: Option<OwnedFd>) -> Result<bool, SuperviseError> {
        match message {
            Message::Failed { step, errno } => {
                self.end = Some(End::Failed { step, errno: Errno::from_raw_os_error(errno) });
                return Ok(true);
            }
            Message::Missed { step, errno } => self.missed.push((step, Errno::from_raw_os_error(errno))),
            Message::Terminal => {
                if let (Some(terminal), Some(fd)) = (&mut self.orders.terminal, fd) {
                    terminal.connect(fd).and_then(|()| self.running.terminal_is_ready()).map_err(cannot("set the terminal up"))?;
                }
            }
            Message::Listener => {
                let attributes = fd.map(|listener| Attributes::new(listener, std::mem::take(&mut self.orders.writable)));
                self.attributes = attributes.map(Attributes::begin).transpose().map_err(cannot("answer the payload"))?;
            }
            Message::Stopped => self.suspend()?,
            Message::Exited { code } => {
                self.end.get_or_insert(End::Exited(code));
                return Ok(true);
            }
            Message::Signaled { signal } => {
                self.end.get_or_insert(End::Signaled(signal));
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The payload was stopped, from its terminal or by itself: this process stops as well, with the caller's terminal as it was, so that the
    /// caller's shell takes over. It goes on when the shell continues it.
    fn suspend(&mut self) -> Result<(), SuperviseError> {
        let meant_for = self.stop_asked();
        if self.orders.limit.is_some() {
            return if meant_for.is_some() { self.send(Signal::CONT) } else { Ok(()) };
        }
        // Without a terminal of its own only what this process has passed on is meant for both.
        if meant_for.is_none() && self.orders.terminal.is_none() {
            return Ok(());
        }
        if let Some(terminal) = &mut self.orders.terminal {
            terminal.catch_up();
            terminal.release();
        }
        stop(meant_for.unwrap_or(MeantFor::Us))?;
        self.resume()
    }

    /// For whom a stop was meant that was asked for of late, if one was. A payload that stops by itself has been asked by nobody, and one that
    /// has something to do before takes its time.
    fn stop_asked(&mut self) -> Option<MeantFor> {
        const OF_LATE: Duration = Duration::from_secs(10);
        let typed = self.orders.terminal.as_mut().and_then(Terminal::take_stop_typed).map(|at| (at, MeantFor::Job));
        let sent = self.stop_passed_on.take().map(|at| (at, MeantFor::Us));
        let last = typed.into_iter().chain(sent).max_by_key(|(at, _)| *at);
        last.filter(|(at, _)| at.elapsed() < OF_LATE).map(|(_, meant_for)| meant_for)
    }

    fn resume(&mut self) -> Result<(), SuperviseError> {
        self.stop_passed_on = None;
        if let Some(terminal) = &mut self.orders.terminal {
            terminal.take();
        }
        // What the host has replaced meanwhile, the payload does not get to see; of that there may be more events than are read at once.
        if self.watch.is_some() {
            self.look_at_guarded()?;
            self.look_at_watch()?;
        }
        self.send(Signal::CONT)
    }
}

/// Whom a stop is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MeantFor {
    /// This process: what comes as a signal has its receivers.
    Us,
    /// What was typed on the payload's terminal is for the caller's whole job, of which this may be one process of several (a pipeline, a script).
    Job,
}

/// Stops this process, and returns when it goes on.
///
/// As SIGTSTP does it by default: not at all where the caller has it ignored, or nobody could continue the job (an orphaned process group,
/// setpgid(2)).
fn stop(meant_for: MeantFor) -> Result<(), SuperviseError> {
    use rustix::process::{getpid, kill_current_process_group, kill_process};
    let sent = match meant_for {
        MeantFor::Us => kill_process(getpid(), Signal::TSTP),
        MeantFor::Job => kill_current_process_group(Signal::TSTP),
    };
    sent.map_err(cannot("stop"))?;
    if sys::cleanup_has_ended() {
        // The stop has taken its word away, which wakes from one: so has this the stop's.
        return kill_process(getpid(), Signal::CONT).map_err(cannot("go on"));
    }
    let stop = SigSet::from(NixSignal::SIGTSTP);
    let mask = |result: nix::Result<()>| result.map_err(|errno| cannot("stop")(Errno::from_raw_os_error(errno as i32)));
    mask(stop.thread_unblock())?;
    mask(stop.thread_block())
}

fn sent(result: Result<(), Errno>) -> Result<(), SuperviseError> {
    match result {
        // Gone already; its last message is on the way.
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(cannot("signal the sandbox")(errno)),
    }
}

struct Ready {
    socket: bool,
    signals: bool,
    watch: bool,
}
