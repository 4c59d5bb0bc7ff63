//! The user's own service manager, asked over D-Bus for a scope that is ours to divide. Only a start with limits comes here.
//!
//! The encoding is the library's; the connection is ours. The library's own waits in a runtime with threads, and takes no answer from the
//! manager's private socket, whose sender has no name of the bus's kind.

use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::ser::{Serialize, SerializeStruct, Serializer};
use zbus::Variant;
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{DynamicType, Endian, ObjectPath, Signature, Type, to_bytes};

use crate::host::connect_within;
use crate::sys::{HeldSignals, cleanup_has_ended};

/// The scope that all runs of a user share while there are any.
pub const UNIT: &str = "hamper.scope";

/// Where in it the processes stay that watch over sandboxes: a cgroup that is divided may have none of its own (cgroups(7)).
pub const PARENTS: &str = "parents";

/// How long all of it may take but for the turns of others.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long others may have theirs: hundreds of runs that begin at once, each for a few milliseconds.
const TURNS: Duration = Duration::from_secs(120);

/// How long a run waits for its turn without a word.
const SILENT: Duration = Duration::from_secs(5);

/// The longest pause between two questions.
const PAUSE: Duration = Duration::from_millis(32);

#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    #[error("cannot ask the service manager at {socket}")]
    Connection { socket: String, source: std::io::Error },
    #[error("the service manager refuses {call}: {words} ({name})")]
    Refused { call: &'static str, name: String, words: String },
    #[error("the service manager did not move this process into {UNIT} within {} s", PATIENCE.as_secs())]
    NotMoved,
}

/// Has this process moved into [`UNIT`], which is started where there is none; `arrived` says whether it is there.
///
/// The caller's own session is not the caller's to move processes out of, so the manager does it, for each run: the scope is one, not the
/// call. What is returned keeps this user's other runs from asking until the scope has been divided. `waits` is called once where they keep
/// this one waiting for long.
///
/// # Errors
/// [`ScopeError`]; the process may have been moved all the same.
///
/// # References
/// org.freedesktop.systemd1(5) `StartTransientUnit`, `AttachProcessesToUnit`; systemd.resource-control(5) `Delegate=`
pub fn enter(socket: &Path, is_bus: bool, waits: impl FnOnce(), mut arrived: impl FnMut() -> bool) -> Result<Option<Turn>, ScopeError> {
    let failed = |source| ScopeError::Connection { socket: socket.display().to_string(), source };
    // One of this user's runs at a time: many that ask at once only keep the manager from answering any. Nobody else can open it.
    let turn = socket.parent().map(|directory| Turn::take(directory, waits)).transpose().map_err(failed)?;
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    let mut wait = || {
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE);
    };
    let mut manager = Manager::connect(socket, is_bus, started + PATIENCE).map_err(failed)?;
    loop {
        match manager.attach().map_err(failed)? {
            Answer::Done => break,
            Answer::Error(name, _) if is(&name, &["NoSuchUnit", "UnitInactive", "ScopeNotRunning"]) => {
                match manager.start().map_err(failed)? {
                    Answer::Done => break,
                    // Another run has just started it, or it is on its way out: both are over in a moment.
                    Answer::Error(name, _) if is(&name, &["UnitExists", "TransactionIsDestructive"]) && started.elapsed() < PATIENCE => {}
                    Answer::Error(name, words) => return Err(ScopeError::Refused { call: "StartTransientUnit", name, words }),
                }
            }
            // It is there, and not divided yet.
            Answer::Error(..) if started.elapsed() < Duration::from_secs(2) => {}
            Answer::Error(name, words) => return Err(ScopeError::Refused { call: "AttachProcessesToUnit", name, words }),
        }
        wait();
    }
    while !arrived() {
        if started.elapsed() > PATIENCE {
            return Err(ScopeError::NotMoved);
        }
        wait();
    }
    Ok(turn)
}

/// This run's turn to ask, until it is dropped.
pub struct Turn {
    file: File,
    _stop: HeldSignals,
}

impl Turn {
    fn take(directory: &Path, waits: impl FnOnce()) -> std::io::Result<Self> {
        let file = File::open(directory)?;
        let started = Instant::now();
        let mut waits = Some(waits);
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // What this run was started in is being ended.
                Err(TryLockError::WouldBlock) if cleanup_has_ended() => return Err(std::io::ErrorKind::Interrupted.into()),
                // One that was stopped in its turn must not stop all others.
                Err(TryLockError::WouldBlock) if started.elapsed() < TURNS => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    let words = format!("other runs have had their turns for {} s: pgrep -a hamper", TURNS.as_secs());
                    return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, words));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if started.elapsed() > SILENT {
                waits.take().into_iter().for_each(|waits| waits());
            }
        }
        // Who stops it from his terminal stops it after its turn, which is short.
        Ok(Self { file, _stop: HeldSignals::stop() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Others have theirs before this one may be stopped. Ignoring: it is closed next.
        let _ = self.file.unlock();
    }
}

/// Whether an error is one of the manager's own.
fn is(error: &str, names: &[&str]) -> bool {
    error.strip_prefix("org.freedesktop.systemd1.").is_some_and(|name| names.contains(&name))
}

enum Answer {
    Done,
    /// Its name and its words.
    Error(String, String),
}

/// A connection on which one call is under way at a time.
struct Manager {
    stream: BufReader<Timed>,
    serial: u32,
}

/// A connection that is given up at a time, however slowly its bytes come.
struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> std::io::Result<Option<Duration>> {
        match self.deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            Some(left) => Ok(Some(left)),
            None => Err(out_of_time()),
        }
    }
}

/// The kernel's `EAGAIN` for a time that is over says nothing to people.
fn out_of_time() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, format!("it does not answer within {} s", PATIENCE.as_secs()))
}

fn timed<T>(result: std::io::Result<T>) -> std::io::Result<T> {
    result.map_err(|error| if error.kind() == std::io::ErrorKind::WouldBlock { out_of_time() } else { error })
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        timed(self.stream.read(bytes))
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        timed(self.stream.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

impl Manager {
    /// Says who we are, and begins; to a bus also hello.
    fn connect(socket: &Path, is_bus: bool, deadline: Instant) -> std::io::Result<Self> {
        let left = deadline.saturating_duration_since(Instant::now()).max(PAUSE);
        let stream = Timed { stream: timed(connect_within(socket, left).map_err(std::io::Error::from))?, deadline };
        let identity: String = rustix::process::geteuid().as_raw().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut manager = Self { stream: BufReader::new(stream), serial: 0 };
        manager.stream.get_mut().write_all(format!("\0AUTH EXTERNAL {identity}\r\nBEGIN\r\n").as_bytes())?;
        let mut answer = Vec::new();
        (&mut manager.stream).take(MOST).read_until(b'\n', &mut answer)?;
        if !answer.starts_with(b"OK ") {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        if is_bus {
            manager.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", &())?;
        }
        Ok(manager)
    }

    fn attach(&mut self) -> std::io::Result<Answer> {
        self.ask("AttachProcessesToUnit", &(UNIT, format!("/{PARENTS}"), vec![std::process::id()]))
    }

    fn start(&mut self) -> std::io::Result<Answer> {
        let properties = vec![
            ("Description", Variant::from("Sandboxes of hamper")),
            ("Delegate", Variant::from(true)),
            ("PIDs", Variant::from(vec![std::process::id()])),
            ("CollectMode", Variant::from("inactive-or-failed")),
            // Each sandbox has its own limit; the manager's default would be one for all of them together.
            ("TasksMax", Variant::from(u64::MAX)),
        ];
        let auxiliary: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        self.ask("StartTransientUnit", &(UNIT, "fail", properties, auxiliary))
    }

    fn ask(&mut self, member: &'static str, body: &(impl Serialize + DynamicType)) -> std::io::Result<Answer> {
        self.call("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", member, body)
    }

    fn call(
        &mut self,
        destination: &'static str,
        path: &'static str,
        interface: &'static str,
        member: &'static str,
        body: &(impl Serialize + DynamicType),
    ) -> std::io::Result<Answer> {
        self.serial += 1;
        let names = [(INTERFACE, interface), (MEMBER, member), (DESTINATION, destination)];
        let mut fields: Vec<(u8, Variant<'_>)> = names.map(|(code, name)| (code, Variant::from(name))).into();
        fields.push((PATH, Variant::from(ObjectPath::from_static_str_unchecked(path))));
        self.stream.get_mut().write_all(&message(METHOD_CALL, self.serial, fields, body)?)?;
        loop {
            // Signals, and whatever else is not the answer, are passed over.
            if let Some(answer) = Reply::read(&mut self.stream)?.answer(self.serial)? {
                return Ok(answer);
            }
        }
    }
}

/// No answer of the manager has more bytes.
const MOST: u64 = 64 * 1024;

/// Byte order, type, flags, version, length of the body, serial, header fields: the D-Bus specification, "Message Format".
type Header<'m> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Variant<'m>)>);

// Types of messages.
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A header field's value; the signature of a body is that of its arguments, one after the other, and not of a structure.
enum Field<'m> {
    Plain(Variant<'m>),
    Signature(String),
}

impl Type for Field<'_> {
    const SIGNATURE: &'static Signature = &Signature::Variant;
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(value) => value.serialize(serializer),
            Self::Signature(text) => {
                let mut variant = serializer.serialize_struct("Variant", 2)?;
                variant.serialize_field("signature", &Signature::Signature)?;
                variant.serialize_field("value", text)?;
                variant.end()
            }
        }
    }
}

fn message(kind: u8, serial: u32, fields: Vec<(u8, Variant<'_>)>, body: &(impl Serialize + DynamicType)) -> std::io::Result<Vec<u8>> {
    let context = Context::new(Endian::native(), 0);
    let mut fields: Vec<(u8, Field<'_>)> = fields.into_iter().map(|(code, value)| (code, Field::Plain(value))).collect();
    let signature = body.signature();
    if signature != Signature::Unit {
        fields.push((SIGNATURE, Field::Signature(signature.to_string_no_parens())));
    }
    let body = to_bytes(context, body).map_err(std::io::Error::other)?;
    let length = u32::try_from(body.bytes().len()).map_err(std::io::Error::other)?;
    let header = (ORDER, kind, 0u8, 1u8, length, serial, fields);
    let mut bytes = to_bytes(context, &header).map_err(std::io::Error::other)?.bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend_from_slice(body.bytes());
    Ok(bytes)
}

struct Reply {
    bytes: Vec<u8>,
    body: usize,
}

impl Reply {
    /// One message, of this machine's byte order, which both ends share.
    fn read(stream: &mut impl Read) -> std::io::Result<Self> {
        const FIXED: usize = 16;
        let mut bytes = vec![0; FIXED];
        stream.read_exact(&mut bytes)?;
        let number = |at: usize| bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(u32::MAX, u32::from_ne_bytes);
        let (body, fields) = (u64::from(number(4)), u64::from(number(12)));
        if bytes.first() != Some(&ORDER) || body > MOST || fields > MOST {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let start = FIXED + (fields as usize).next_multiple_of(8);
        bytes.resize(start + body as usize, 0);
        stream.read_exact(&mut bytes[FIXED..])?;
        Ok(Self { bytes, body: start })
    }

    /// What it says, where it is the answer to this call.
    fn answer(&self, serial: u32) -> std::io::Result<Option<Answer>> {
        let data = Data::new(self.bytes.as_slice(), Context::new(Endian::native(), 0));
        let ((_, kind, _, _, _, _, fields), _): (Header<'_>, usize) = data.deserialize().map_err(std::io::Error::other)?;
        let field = |wanted: u8| fields.iter().find(|(code, _)| *code == wanted).map(|(_, value)| value);
        if !matches!(field(REPLY_SERIAL), Some(Variant::U32(number)) if *number == serial) {
            return Ok(None);
        }
        Ok(match (kind, field(ERROR_NAME)) {
            (METHOD_RETURN, _) => Some(Answer::Done),
            (ERROR, Some(Variant::Str(name))) => {
                let body = data.slice(self.body..);
                let words = body.deserialize::<&str>().map_or("", |(words, _)| words);
                Some(Answer::Error(name.to_string(), words.to_owned()))
            }
            _ => None,
        })
    }
}

const ORDER: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_manager() {
        // As systemd's private socket gives it: no unique name of a bus.
        let sender = || (7, Variant::from("org.freedesktop.systemd1"));
        let done = message(METHOD_RETURN, 7, vec![(REPLY_SERIAL, Variant::from(3u32)), sender()], &()).expect("message");
        let reply = Reply::read(&mut done.as_slice()).expect("message");
        assert!(matches!(reply.answer(3), Ok(Some(Answer::Done))));
        assert!(matches!(reply.answer(4), Ok(None)));
        let name = "org.freedesktop.systemd1.NoSuchUnit";
        let fields = vec![(REPLY_SERIAL, Variant::from(1u32)), (ERROR_NAME, Variant::from(name)), sender()];
        let error = message(ERROR, 7, fields, &"Unit x not found.").expect("message");
        match Reply::read(&mut error.as_slice()).expect("message").answer(1) {
            Ok(Some(Answer::Error(got, words))) => assert_eq!((got.as_str(), words.as_str()), (name, "Unit x not found.")),
            _ => panic!("an error"),
        }
        assert!(is(name, &["NoSuchUnit"]) && !is(name, &["UnitExists"]));
    }

    #[test]
    fn what_is_no_answer_ends_the_call() {
        let good = message(METHOD_RETURN, 7, vec![(REPLY_SERIAL, Variant::from(1u32))], &()).expect("message");
        for length in 0..good.len() {
            assert!(Reply::read(&mut good.get(..length).unwrap_or_default()).is_err(), "{length}");
        }
        let mut long = good.clone();
        long[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(Reply::read(&mut long.as_slice()).is_err());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut flipped = good.clone();
                flipped[at] ^= 1 << bit;
                // Whatever it says, it is read without a panic.
                let _ = Reply::read(&mut flipped.as_slice()).and_then(|reply| reply.answer(1));
            }
        }
    }
}
