//! `hamper run`: start the image's default command, or COMMAND, in a sandbox.

use super::exit::ExitCode;
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::io::Errno;

use super::error::{CliError, StepKind};
use super::inputs::Inputs;
use super::landlock_rung;
use super::ledger::Ledger;
use super::limits::{Limited, Made};
use super::output::{say, talk};
use super::start::{Assembled, Effects, Request, assemble, terminal_sides};
use super::streams::refuse_ways_out;
use super::which::{self, Chosen};
use crate::host::{Delegation, Directories, Explanation, Ids, Learned, Place};
use crate::launch::{self, CgroupError, LaunchError, lower};
use crate::plan::{self, Degraded, Invocation, Plan, Step};
use crate::profile::{Isolation, OnReplace, Profile, SeccompSource};
use crate::supervise::{self, End, Orders, Outcome, Sign, Terminal};
use crate::sys::Arguments;
use crate::{report, sys};

/// Run the default command of a profile's image, or COMMAND, in a sandbox
#[derive(Args, Debug, Default)]
pub struct RunArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to run instead of the image's CMD; appended to its entrypoint
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What every command that starts a sandbox takes.
#[derive(Args, Debug, Default)]
pub struct CommonArgs {
    /// A profile's path or name; the nearest hamper.toml upwards where absent
    pub profile: Option<String>,
    /// Set a variable of the payload's environment
    #[arg(short = 'e', long = "env", value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Read variables from a file of NAME=VALUE lines
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Mount SRC on DST, read-write unless :ro
    #[arg(short = 'v', long = "volume", value_name = "SRC:DST[:ro]")]
    pub volume: Vec<String>,
    /// Working directory inside
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User inside, by name or number
    #[arg(short = 'u', long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Replace the image's entrypoint; an empty one drops it
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Network of the sandbox: none or host
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,
    /// Use this image; no profile is needed then
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// The project directory
    #[arg(long, value_name = "DIR")]
    pub project: Option<PathBuf>,
    /// Name of the sandbox
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Keep the root's changes for the next run
    #[arg(long)]
    pub keep: bool,
    /// Set any key of the profile
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Never ask a registry
    #[arg(long)]
    pub offline: bool,
    /// Refuse anything that the lock file does not name
    #[arg(long)]
    pub locked: bool,
    /// Write what was asked for and what was got as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print the steps, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Say more
    #[arg(long)]
    pub verbose: bool,
}

pub fn run(args: &RunArgs, all: &Arguments) -> ExitCode {
    let invocation = Invocation { command: args.command.clone(), ..Invocation::default() };
    finish(start(&args.common, invocation, args.common.dry_run.then_some(Show::Human), all))
}

/// The code of a run that its time limit has ended.
const TIME_LIMIT: u8 = 124;

/// How a plan is shown instead of being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Human,
    Json,
}

/// The exit code, or the error with its words and code.
pub fn finish(result: Result<u8, CliError>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            talk(&error.render());
            ExitCode::from(error.run_code())
        }
    }
}

/// Everything from the command line to the payload's exit code.
pub fn start(args: &CommonArgs, invocation: Invocation, show: Option<Show>, all: &Arguments) -> Result<u8, CliError> {
    if show.is_some() && args.report.is_some() {
        return Err(CliError::Told {
            words: "--report tells of a run, and nothing is run here".into(),
            hint: Some("the plan as data: hamper plan --json".into()),
        });
    }
    let open = |path: &PathBuf| report::Destination::open(path).map_err(|source| CliError::ReportPlace { path: path.clone(), source });
    let destination = args.report.as_ref().map(open).transpose()?;
    let result = start_reported(args, invocation, show, destination.as_ref(), all);
    if let (Err(error), Some(destination)) = (&result, destination.filter(|destination| !destination.is_written())) {
        // What an earlier run has left there would be taken for this one's.
        if let Err(source) = destination.write(&report::Report::failed(error.chain(), error.errno())) {
            talk(&format!("hamper: ignoring: cannot write the report: {source}"));
        }
    }
    result
}

fn start_reported(
    args: &CommonArgs,
    mut invocation: Invocation,
    show: Option<Show>,
    destination: Option<&report::Destination>,
    all: &Arguments,
) -> Result<u8, CliError> {
    let directories = Directories::from_environment(|name| std::env::var_os(name).map(PathBuf::from))?;
    let ids = Ids::own()?;
    invocation.directory = current_directory()?;
    let Chosen { mut profile, project } = which::choose(args, &directories, ids, &invocation.directory)?;
    if show.is_none() {
        refuse_ways_out(&profile, profile.isolation == Isolation::Landlock)?;
    }
    let inputs = Inputs::read(&profile)?;
    let mut ledger = Ledger::read(&directories)?;
    super::trust::refuse_suspects(&mut ledger, &super::trust::obeyed(&profile, &inputs))?;
    let written = ledger.trees();
    if let Some(path) = &project.path {
        profile.project.hide.extend(ledger.led_to(path, &profile.project.hide));
    }
    complete(&mut invocation, args, &profile)?;
    let name = args.name.as_ref().filter(|_| show.is_none());
    let _name = name.map(|name| super::names::take(name, &directories)).transpose()?;
    let effects = if show.is_some() { Effects::None } else { Effects::All };
    let assemble = |profile: &Profile, learned: &Learned| {
        assemble(&Request {
            profile,
            project: &project,
            directories: &directories,
            ids,
            invocation: &invocation,
            inputs: &inputs,
            written: &written,
            offline: args.offline,
            learned,
            effects,
        })
    };
    let assemble_without_namespaces = |why: &Explanation, learned: &Learned| {
        if show.is_none() {
            refuse_ways_out(&profile, true)?;
        }
        let mut assembled = assemble(&landlock_rung::on_rung(&profile), learned).map_err(|error| landlock_rung::refused(error, why))?;
        landlock_rung::explain(&mut assembled.plan, why);
        Ok::<_, CliError>(assembled)
    };
    let blocked = show.and_then(|_| landlock_rung::blocked_plan(&profile));
    let chosen = |blocked: Option<&Explanation>, learned: &Learned| match blocked {
        Some(why) => assemble_without_namespaces(why, learned),
        None if profile.isolation == Isolation::Landlock => assemble(&landlock_rung::on_rung(&profile), learned),
        None => assemble(&profile, learned),
    };
    let assembled = chosen(blocked.as_ref(), &Learned::default())?;
    match show {
        None => {}
        Some(Show::Human) => {
            say(&super::plan::human(&assembled.plan));
            return Ok(0);
        }
        Some(Show::Json) => {
            let text = super::plan::json(&assembled.plan)
                .map_err(|error| CliError::Told { words: format!("cannot write the plan as JSON: {error}"), hint: None })?;
            say(&text);
            return Ok(0);
        }
    }
    let said = assembled.plan.notes.clone();
    say_plan(&profile, &assembled.plan, &[], &directories);
    if args.verbose {
        say_more(&assembled);
    }
    let own_command = is_own_command(&invocation, &profile);
    let lacks_capabilities = own_command && assembled.image.image.user.uid == 0 && profile.security.caps.is_empty();
    let mut launch = |assembled: Assembled, kept: Option<Limited>| {
        let (trees, guarded) = &assembled.exposed;
        ledger.begin(trees, guarded)?;
        // All that was guarded, unless it is known that nothing was replaced.
        let mut lost = guarded.clone();
        let ended = launch_and_wait(&profile, assembled, &directories, &Told { destination, verbose: args.verbose }, all, kept, &mut lost);
        if let Err(error) = ledger.end(&lost) {
            talk(&error.render());
        }
        ended
    };
    let mut ended = launch(assembled, None)?;
    let (mut blocked, mut learned) = (None, Learned::default());
    // Each of the three happens once.
    for _ in 0..3 {
        let mut kept = None;
        let umask = match ended {
            Ended::Code(_) => break,
            Ended::Blocked { why, umask } => {
                // The cgroup, if there was one, went with it.
                (blocked, learned.delegation) = (Some(why), None);
                umask
            }
            Ended::Unlimited { why, umask } => {
                learned.none = Some(why);
                umask
            }
            Ended::Withheld { delegation, cgroup, umask } => {
                learned.delegation = delegation.map(|delegation| *delegation);
                kept = Some(cgroup);
                umask
            }
        };
        let mut assembled = chosen(blocked.as_ref(), &learned)?;
        // The first start has changed it.
        assembled.resources.iter_mut().for_each(|resources| resources.umask = umask);
        say_plan(&profile, &assembled.plan, &said, &directories);
        ended = launch(assembled, kept)?;
    }
    if let Ended::Code(code @ 1..128) = ended
        && code != i32::from(TIME_LIMIT)
        && lacks_capabilities
        && rustix::termios::isatty(rustix::stdio::stderr())
    {
        talk("hint: root inside has no capabilities; if that is why it ended: set identity.user or caps = [\"@root\"]");
    }
    // The process ends now, which gives everything back at once.
    std::mem::forget((profile, project, invocation, directories, inputs, ledger));
    match ended {
        Ended::Code(code) => Ok(u8::try_from(code).unwrap_or(125)),
        Ended::Blocked { why, .. } => Err(CliError::Told { words: why.sentence, hint: None }),
        Ended::Unlimited { why, .. } => Err(CliError::Told { words: why, hint: None }),
        Ended::Withheld { .. } => {
            Err(CliError::Told { words: "the cgroup has lost controllers while the sandbox was started".into(), hint: None })
        }
    }
}

/// What `--verbose` adds.
fn say_more(assembled: &Assembled) {
    talk(&format!("hamper: image {}", assembled.image.digest));
    let maps = assembled.plan.steps.iter().filter(|step| matches!(step, Step::WriteIdMaps { .. }));
    maps.for_each(|step| talk(&format!("hamper: {step}")));
    if let Some(scratch) = assembled.resources.as_ref().and_then(|resources| resources.scratch.as_ref()) {
        talk(&format!("hamper: scratch directory {}", super::error::escape(&scratch.path().to_string_lossy())));
    }
    talk(&format!("hamper: {} steps, which `hamper plan` prints", assembled.plan.steps.len()));
}

/// Whether the image's own command is run, as it is.
fn is_own_command(invocation: &Invocation, profile: &Profile) -> bool {
    let replaced = invocation.no_entrypoint || invocation.entrypoint.is_some() || !invocation.command.is_empty();
    !replaced && profile.command.is_none() && profile.entrypoint.is_none()
}

/// Says what a plan has to say, but for what was said before.
fn say_plan(profile: &Profile, plan: &Plan, said: &[String], directories: &Directories) {
    super::notice::notes(&profile.name, plan.notes.iter().filter(|note| !said.contains(note)), directories);
    // Those of limits are said when it is known which can be had.
    let others: Vec<_> = plan.degraded.iter().filter(|one| one.what != "cgroup").cloned().collect();
    super::notice::degraded(&profile.name, &others, directories);
}

/// What came of a start.
enum Ended {
    Code(i32),
    /// The machine has no namespaces for it, and it may be made anew without them; the mask is the caller's.
    Blocked {
        why: Explanation,
        umask: u32,
    },
    /// There is no cgroup for it, against what was planned, and it may be made anew without one.
    Unlimited {
        why: String,
        umask: u32,
    },
    /// The cgroup has less than was planned, and the start may be made anew in it, with what stands in for the rest.
    Withheld {
        delegation: Option<Box<Delegation>>,
        cgroup: Limited,
        umask: u32,
    },
}

fn current_directory() -> Result<PathBuf, CliError> {
    std::env::current_dir().map_err(|source| CliError::Io { act: "find", path: PathBuf::from("the current directory"), source })
}

fn complete(invocation: &mut Invocation, args: &CommonArgs, profile: &Profile) -> Result<(), CliError> {
    invocation.workdir.clone_from(&args.workdir);
    invocation.entrypoint = args.entrypoint.as_ref().map(|entry| if entry.is_empty() { vec![] } else { vec![entry.clone()] });
    (invocation.terminal, invocation.pipes) = terminal_sides(profile.lifecycle.tty);
    for pair in &args.env {
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => match std::env::var(pair) {
                Ok(value) => (pair.clone(), value),
                Err(_) => continue,
            },
        };
        if name.is_empty() {
            return Err(CliError::Usage(format!("-e {pair}: a variable needs a name")));
        }
        invocation.environment.push((name, value));
    }
    Ok(())
}

/// To whom a run is told of, beside what it has to say.
struct Told<'a> {
    destination: Option<&'a report::Destination>,
    verbose: bool,
}

fn launch_and_wait(
    profile: &Profile,
    assembled: Assembled,
    directories: &Directories,
    told: &Told<'_>,
    all: &Arguments,
    kept: Option<Limited>,
    lost: &mut Vec<PathBuf>,
) -> Result<Ended, CliError> {
    let Assembled { mut plan, delegation, resources, pipes, opened, watched, appearing, exposed: _, absent, stop_signal, image, host } =
        assembled;
    let Some(mut resources) = resources else { return Ok(Ended::Code(0)) };
    let (sides, umask) = (resources.terminal, resources.umask);
    let scratch = resources.scratch.take();
    resources.scratch = scratch;
    // What is not there, or is another one by now, is not taken for the payload's: that refuses too much at most.
    let writable = plan::writable(&plan.steps).iter().filter_map(|(path, identity)| supervise::Writable::open(path, *identity)).collect();
    let lowered = lower(&plan, resources)?;
    let asks = plan.steps.iter().any(|step| matches!(step, Step::MakeCgroup { place: Place::Manager { .. }, .. }));
    if !asks {
        sys::block_signals();
    }
    let made = match kept {
        Some(limited) => {
            let refused = limited.refused().collect();
            Made::Cgroup(limited, refused)
        }
        None => super::limits::make(&plan.steps, profile)?,
    };
    let mut cgroup = match made {
        Made::Cgroup(limited, missing) => {
            plan.degraded.extend(missing);
            Some(limited)
        }
        Made::NotNeeded => None,
        Made::Cannot(why) => return Ok(Ended::Unlimited { why, umask }),
        Made::Withheld(cgroup, withheld) => {
            let delegation = delegation.map(|delegation| delegation.without(withheld)).map(Box::new);
            return Ok(Ended::Withheld { delegation, cgroup, umask });
        }
    };
    super::notice::limits(&plan.degraded);
    if asks {
        sys::block_signals();
        // From here on a signal tells.
        if sys::cleanup_has_ended() {
            return Err(CgroupError::CleanupKilled.into());
        }
    }
    let keyring = own_keyring(sys::join_session_keyring()).map_err(|errno| {
        let step = plan.steps.iter().position(|step| *step == Step::JoinSessionKeyring).unwrap_or_default();
        failed_step(&plan.steps, u32::try_from(step).unwrap_or(u32::MAX), errno)
    })?;
    plan.degraded.extend(keyring);
    let mut running = match launch::start(lowered, cgroup.as_ref().map(Limited::cgroup), all) {
        Ok(running) => running,
        Err(error) => {
            let blocked = landlock_rung::blocked_launch(profile, &plan, &error).map(|why| Ended::Blocked { why, umask });
            return blocked.ok_or_else(|| step_error(&plan.steps, error));
        }
    };
    if let Some(limited) = &mut cgroup {
        let missed = running.kills_as_one.take().and_then(|got| limited.add(got));
        let missed: Vec<_> = missed.into_iter().chain(super::limits::left(&plan.steps)).collect();
        super::notice::limits(&missed);
        plan.degraded.extend(missed);
    }
    let cleaned = running.scratch.as_mut().map_or(Ok(false), launch::Scratch::discard_used);
    let orders = Orders {
        terminal: sides.contains(&true).then(|| Terminal::new(sides)),
        pipes,
        watched,
        writable,
        appearing,
        warn_only: profile.project.on_replace == OnReplace::Warn,
        limit: profile.limits.time,
        stop_signal,
        stop_timeout: profile.lifecycle.stop_timeout,
    };
    let mut outcome = supervise::supervise(&mut running, orders)?;
    let limited = cgroup.map(|limited| limited.end(&mut outcome, told.destination.is_some() || told.verbose));
    if let Some(limits) = limited.as_ref().filter(|_| told.verbose) {
        super::limits::say_usage(&limits.usage);
    }
    outcome.appeared.extend(absent.into_iter().filter(|path| path.symlink_metadata().is_ok()).map(Sign::Appeared));
    let given_back = running.scratch.take().map_or(Ok(false), |scratch| scratch.give_back(reusable(profile, &outcome)));
    for result in [&cleaned, &given_back] {
        if let Err(errno) = result {
            talk(&format!("hamper: ignoring: cannot clean up a scratch directory: {errno}"));
        }
    }
    if cleaned == Ok(true) || given_back == Ok(true) {
        super::trash::sweep_in_background(&directories.data.join("trash"), &host);
    }
    if let End::Failed { step, errno } = outcome.end
        && let Some(why) = landlock_rung::blocked(profile, &plan, step, errno)
    {
        return Ok(Ended::Blocked { why, umask });
    }
    if !matches!(outcome.end, End::Replaced(_)) {
        lost.retain(|file| outcome.replaced.iter().any(|replaced| file.starts_with(replaced)));
    }
    for path in &outcome.replaced {
        talk(&format!("hamper: {} was made or replaced while the sandbox ran and is not protected any more", shown(path)));
    }
    let reported = told
        .destination
        .map_or(Ok(()), |destination| destination.write(&report::Report::new(profile, &plan, &outcome, limited.as_ref(), &host)));
    outcome.appeared.iter().for_each(|sign| talk(&format!("hamper: {}", sign_words(sign))));
    if outcome.end == End::Lost && !running.ends_all() {
        talk(
            "hamper: what the sandbox has started may still run: there were other children of this process, which could not be told from it",
        );
    }
    let result = code(&plan.steps, &outcome).and_then(|code| match reported {
        Ok(()) => Ok(Ended::Code(code)),
        Err(source) => Err(CliError::Report { code, source }),
    });
    // The process ends now, and the kernel closes and frees what is left faster than we do.
    std::mem::forget((running, opened, image, plan, host));
    result
}

/// The payload has chosen the name: it must not look like a line of ours either.
fn shown(path: &Path) -> String {
    super::error::escape(&path.to_string_lossy())
}

fn sign_words(sign: &Sign) -> String {
    match sign {
        Sign::Appeared(path) => format!("{} appeared while the sandbox ran: read it before you run git here", shown(path)),
        Sign::Gone(path) => {
            format!(
                "{} is gone since the sandbox ran: git will look for another repository, here and above; look before you run it",
                shown(path)
            )
        }
        Sign::Bare(path) => {
            format!(
                "{} has become a repository itself while the sandbox ran (HEAD, objects, refs): read its `config` before you run git here",
                shown(path)
            )
        }
    }
}

/// Whether what a run did to its scratch directory can be seen from outside: a mount that failed leaves marks of the kernel, and without
/// the filter a payload can set flags of the file system.
fn reusable(profile: &Profile, outcome: &Outcome) -> bool {
    let filtered = matches!(profile.security.seccomp, SeccompSource::Default | SeccompSource::Strict);
    filtered && !matches!(outcome.end, End::Failed { .. })
}

/// A sandbox that shares the caller's keys is none; a kernel without keyrings has none to share.
fn own_keyring(joined: Result<(), Errno>) -> Result<Option<Degraded>, Errno> {
    match joined {
        Ok(()) => Ok(None),
        Err(Errno::NOSYS) => {
            Ok(Some(Degraded { what: "keyring", asked: "a session keyring of its own".into(), got: "a kernel without keyrings".into() }))
        }
        Err(errno) => Err(errno),
    }
}

fn step_error(steps: &[Step], error: LaunchError) -> CliError {
    match error {
        LaunchError::Step { step, source } => failed_step(steps, step, source),
        LaunchError::Maps { step, source } => CliError::Maps { step: words(steps, step), source },
    }
}

fn words(steps: &[Step], index: u32) -> String {
    match steps.get(index as usize) {
        // Its other words may be many, and may be secrets.
        Some(Step::Execute { argv, .. }) => format!("cannot execute `{}`", argv.first().map_or("", String::as_str)),
        Some(step) => format!("cannot {step}"),
        None => "a step failed".into(),
    }
}

fn failed_step(steps: &[Step], index: u32, source: Errno) -> CliError {
    let kind = steps.get(index as usize).map_or(StepKind::Other, StepKind::of);
    CliError::Step { step: words(steps, index), kind, source }
}

fn code(steps: &[Step], outcome: &Outcome) -> Result<i32, CliError> {
    match &outcome.end {
        End::Exited(code) => Ok(*code),
        End::Signaled(signal) => Ok(128 + signal),
        End::TimeLimit => {
            talk("hamper: the time limit was reached");
            Ok(i32::from(TIME_LIMIT))
        }
        End::Failed { step, errno } => Err(failed_step(steps, *step, *errno)),
        End::Replaced(path) => Err(CliError::Told {
            words: format!(
                "{} was made or replaced while the sandbox ran, which undoes its protection: the sandbox was ended",
                shown(path)
            ),
            hint: Some("[project] on_replace = \"warn\" lets it go on".into()),
        }),
        End::MemoryLimit(limit) => {
            talk(&match limit {
                Some(bytes) => format!("hamper: memory limit {} reached; killed by the kernel", super::limits::shown(*bytes)),
                None => "hamper: killed by the kernel for want of memory: not at a limit of this profile, but at one around it, or the machine's"
                    .to_owned(),
            });
            Ok(128 + 9)
        }
        End::CleanupKilled => {
            talk(
                "hamper: the sandbox was ended: a process of this run was killed in the cgroup that the run was started in, as all is there when a service stops",
            );
            Ok(128 + 9)
        }
        End::Lost => Err(CliError::Told { words: "the sandbox was killed".into(), hint: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_without_keyrings_may_do_without_one() {
        assert_eq!(own_keyring(Ok(())), Ok(None));
        assert!(own_keyring(Err(Errno::NOSYS)).is_ok_and(|degraded| degraded.is_some_and(|one| one.what == "keyring")));
        for errno in [Errno::DQUOT, Errno::NOMEM, Errno::PERM] {
            assert_eq!(own_keyring(Err(errno)), Err(errno));
        }
    }
}
