//! The compiled programs are run, on an interpreter of the kernel's instruction set, and compared with policies written down plainly.

use seccompiler::sock_filter;

use super::oci::{Compare, Condition, MAX_BYTES, MAX_ENTRIES, parse};
use super::*;

const KILL: u32 = KILL_PROCESS;
const EAFNOSUPPORT: u32 = errno(97);
const EPROTONOSUPPORT: u32 = errno(93);
const ENOTTY: u32 = errno(25);
const ENOTSUP: u32 = errno(95);
const I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;

/// `struct seccomp_data`.
#[derive(Clone, Copy, Default)]
struct Data {
    number: u32,
    arch: u32,
    arguments: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 => (self.arguments[(offset as usize - 16) / 8] >> (8 * (offset % 8))) as u32,
            _ => panic!("a load from {offset}"),
        }
    }
}

/// What an instruction does, as the kernel's checker knows them.
fn step(instruction: &sock_filter, a: &mut u32, data: &Data) -> Result<usize, u32> {
    let sock_filter { code, jt, jf, k } = instruction.clone();
    let either = |holds: bool| Ok(usize::from(if holds { jt } else { jf }));
    match code {
        0x20 => {
            assert_eq!(k % 4, 0);
            *a = data.word(k);
            Ok(0)
        }
        0x54 => {
            *a &= k;
            Ok(0)
        }
        0x05 => Ok(k as usize),
        0x06 => Err(k),
        0x15 => either(*a == k),
        0x25 => either(*a > k),
        0x35 => either(*a >= k),
        0x45 => either(*a & k != 0),
        _ => panic!("instruction {code:#x}"),
    }
}

fn run(program: &[sock_filter], data: &Data) -> u32 {
    let (mut at, mut a) = (0, 0);
    loop {
        match step(&program[at], &mut a, data) {
            Ok(distance) => at += 1 + distance,
            Err(action) => return action,
        }
    }
}

/// Whether the kernel would remember that a call is always let through: it goes through the program with the number and the
/// architecture, and stops at the first look at anything else.
fn always_allowed(program: &[sock_filter], number: u32, arch: u32) -> bool {
    let data = Data { number, arch, ..Data::default() };
    let (mut at, mut a) = (0, 0);
    loop {
        if program[at].code == 0x20 && program[at].k > 4 {
            return false;
        }
        match step(&program[at], &mut a, &data) {
            Ok(distance) => at += 1 + distance,
            Err(action) => return action == ALLOW,
        }
    }
}

/// What the kernel checks before it takes a program: lengths, known instructions, jumps that stay inside, a return at the end.
fn check(program: &[sock_filter]) {
    assert!((1..=4096).contains(&program.len()));
    for (at, instruction) in program.iter().enumerate() {
        let reach = match instruction.code {
            0x05 => instruction.k as usize,
            0x15 | 0x25 | 0x35 | 0x45 => usize::from(instruction.jt.max(instruction.jf)),
            0x20 | 0x54 | 0x06 => 0,
            code => panic!("instruction {code:#x}"),
        };
        assert!(at + 1 + reach < program.len() || instruction.code == 0x06, "a jump from {at} out of the program");
    }
    assert_eq!(program.last().unwrap().code, 0x06);
}

fn request(source: Source<'_>, arch: Arch) -> Request<'_> {
    Request {
        source,
        allow: &[],
        ptrace: false,
        nested_userns: false,
        same_user: None,
        dies_with_parent: false,
        caps: &[],
        kernel: (6, 18),
        arch,
    }
}

fn number(name: &str, arch: Arch) -> u32 {
    table::find(name).and_then(|call| call.number(arch)).unwrap_or_else(|| panic!("no {name}")).into()
}

/// The verdict on a call by its name.
fn ask(filter: &Filter, arch: Arch, name: &str, arguments: &[u64]) -> u32 {
    let mut data = Data { number: number(name, arch), arch: arch.audit(), ..Data::default() };
    data.arguments[..arguments.len()].copy_from_slice(arguments);
    run(&filter.program, &data)
}

/// xorshift64*: the same numbers every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Words at which comparisons turn.
    fn word(&mut self) -> u64 {
        const EDGES: [u64; 12] =
            [0, 1, 2, 16, 0x5412, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1_0000_0000, 0x1_0000_0001, u64::MAX - 1, u64::MAX];
        match self.below(3) {
            0 => self.next(),
            1 => self.pick(&EDGES),
            _ => self.pick(&EDGES) ^ (1 << self.below(64)),
        }
    }
}

// ---- names and numbers

#[test]
fn the_table_is_sorted_and_no_number_stands_twice() {
    assert!(table::CALLS.is_sorted_by(|a, b| a.0 < b.0));
    assert!(table::FOREIGN.is_sorted_by(|a, b| a < b));
    assert!(table::FOREIGN.iter().all(|name| table::find(name).is_none()));
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let mut numbers: Vec<_> = table::CALLS.iter().filter_map(|call| call.number(arch)).collect();
        numbers.sort_unstable();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{arch:?}");
        assert_eq!(numbers.last(), Some(&471));
        assert!(usize::from(numbers[numbers.len() - 1]) < LIMIT);
        assert_eq!(Set::known(arch).len(), numbers.len());
    }
    assert_eq!((Set::known(Arch::X86_64).len(), Set::known(Arch::Aarch64).len()), (385, 327));
}

#[test]
fn calls_since_424_have_one_number_everywhere() {
    for call in table::CALLS {
        let (x86_64, aarch64) = (call.number(Arch::X86_64), call.number(Arch::Aarch64));
        if x86_64.is_some_and(|n| n >= 424) || aarch64.is_some_and(|n| n >= 424) {
            assert_eq!(x86_64, aarch64, "{}", call.0);
        }
    }
}

#[test]
fn the_table_agrees_with_libc() {
    macro_rules! agree {
        ($($constant:ident $name:literal)*) => { $(assert_eq!(i64::from(number($name, Arch::HOST)), i64::from(libc::$constant), $name);)* };
    }
    agree! {
        SYS_read "read" SYS_ioctl "ioctl" SYS_socket "socket" SYS_socketpair "socketpair" SYS_clone "clone" SYS_execve "execve"
        SYS_personality "personality" SYS_ptrace "ptrace" SYS_mount "mount" SYS_umount2 "umount2" SYS_unshare "unshare"
        SYS_setns "setns" SYS_keyctl "keyctl" SYS_add_key "add_key" SYS_request_key "request_key" SYS_bpf "bpf"
        SYS_perf_event_open "perf_event_open" SYS_userfaultfd "userfaultfd" SYS_seccomp "seccomp" SYS_openat "openat"
        SYS_process_vm_readv "process_vm_readv" SYS_process_vm_writev "process_vm_writev" SYS_kcmp "kcmp" SYS_statx "statx"
        SYS_futex "futex" SYS_exit_group "exit_group" SYS_rt_sigreturn "rt_sigreturn" SYS_getrandom "getrandom" SYS_rseq "rseq"
        SYS_pidfd_send_signal "pidfd_send_signal" SYS_io_uring_setup "io_uring_setup" SYS_open_tree "open_tree" SYS_clone3 "clone3"
        SYS_close_range "close_range" SYS_openat2 "openat2" SYS_faccessat2 "faccessat2" SYS_landlock_restrict_self "landlock_restrict_self"
    }
}

// ---- the lists

#[test]
fn no_call_is_listed_twice_and_strict_takes_only_what_default_gives() {
    let mut seen: Vec<&str> = policy::DEFAULT.iter().flat_map(|group| group.calls).copied().collect();
    let (all, lists) = (seen.len(), policy::lists(Arch::X86_64));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), all);
    for name in policy::STRICT_WITHOUT.iter().flat_map(|group| group.calls) {
        assert!(seen.contains(name), "strict takes {name} away, which default does not have");
    }
    for name in policy::LONGER_WAY {
        assert!(!seen.contains(name), "{name}");
    }
    assert!(lists.strict.without(&lists.default).len() == 0);
}

#[test]
fn groups_have_names_words_and_calls() {
    assert!(GROUPS.is_sorted_by(|a, b| a.name < b.name));
    for group in GROUPS {
        assert!(group.name.starts_with('@') && !group.about.is_empty() && !group.calls.is_empty(), "{}", group.name);
        assert!(group.calls.iter().all(|name| table::find(name).is_some()), "{}", group.name);
    }
}

/// What hardly any program needs and many exploits have used.
const NEVER: &[&str] = &[
    "acct",
    "add_key",
    "adjtimex",
    "bpf",
    "chroot",
    "clock_adjtime",
    "clock_settime",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "lsm_set_self_attr",
    "mbind",
    "memfd_secret",
    "migrate_pages",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "open_tree_attr",
    "perf_event_open",
    "pivot_root",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "set_mempolicy",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
    "kcmp",
    "pidfd_getfd",
    "process_madvise",
];

/// The same, on x86-64 only.
const NEVER_X86_64: &[&str] = &["ioperm", "iopl", "modify_ldt", "uselib", "_sysctl", "create_module", "sysfs", "ustat"];

#[test]
fn what_is_dangerous_gives_eperm() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        for (source, ptrace) in [(Source::Default, false), (Source::Default, true), (Source::Strict, true)] {
            let filter = compile(&Request { ptrace, ..request(source, arch) }).unwrap();
            let here = if arch == Arch::X86_64 { NEVER_X86_64 } else { &[] };
            for name in NEVER.iter().chain(here).filter(|name| table::find(name).unwrap().number(arch).is_some()) {
                assert_eq!(ask(&filter, arch, name, &[]), EPERM, "{name} on {arch:?}");
            }
            assert_eq!(ask(&filter, arch, "clone3", &[]), ENOSYS);
        }
    }
}

#[test]
fn the_filters_are_small() {
    for (source, ptrace, calls, instructions) in
        [(Source::Default, false, 296, 100), (Source::Default, true, 300, 100), (Source::Strict, false, 235, 150)]
    {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let filter = compile(&Request { ptrace, ..request(source, arch) }).unwrap();
            assert!(filter.allowed <= calls, "{source:?} lets {} calls through", filter.allowed);
            assert!(filter.program.len() <= instructions, "{source:?} has {} instructions", filter.program.len());
            assert!(filter.notes.is_empty());
            check(&filter.program);
        }
    }
}

// ---- default and strict, number by number

/// The policy, written down a second time without ranges, trees or nodes.
fn expected(strict: bool, ptrace: bool, arch: Arch, data: &Data) -> u32 {
    if data.arch != arch.audit() {
        return KILL;
    }
    let Some(call) = table::CALLS.iter().find(|call| call.number(arch).map(u32::from) == Some(data.number)) else { return ENOSYS };
    let listed = |groups: &[Group]| groups.iter().any(|group| group.calls.contains(&call.0));
    let low = data.arguments.map(|argument| argument as u32);
    let yes = |holds: bool, otherwise: u32| if holds { ALLOW } else { otherwise };
    match call.0 {
        "clone" => yes(low[0] & 0x7E02_0000 == 0, EPERM),
        "personality" if strict => yes(low[0] == 0 || low[0] == u32::MAX, EPERM),
        "personality" => yes([0, 8, 0x20000, 0x20008, u32::MAX].contains(&low[0]), EPERM),
        "socketpair" => yes(low[0] == 1, EAFNOSUPPORT),
        "socket" => match low[0] {
            1 => ALLOW,
            2 | 10 => yes(!strict || [0, 1, 6, 17, 58].contains(&low[2]), EPROTONOSUPPORT),
            16 if !strict => yes(low[2] == 0, EPROTONOSUPPORT),
            _ => EAFNOSUPPORT,
        },
        "ioctl" if [0x5412, 0x541C, 0x5423, 0x4008_6602, 0x401C_5820].contains(&low[1]) => EPERM,
        "ioctl" if strict => yes(policy::STRICT_IOCTLS.iter().any(|(first, last)| (*first..=*last).contains(&low[1])), ENOTTY),
        "ptrace" | "process_vm_readv" | "process_vm_writev" if ptrace && !strict => ALLOW,
        name if policy::LONGER_WAY.contains(&name) => ENOSYS,
        _ if strict && listed(policy::STRICT_WITHOUT) => ENOSYS,
        _ => yes(listed(policy::DEFAULT), EPERM),
    }
}

/// Arguments at which one of the rules turns.
fn arguments() -> Vec<[u64; 6]> {
    let mut words: Vec<u64> = (0..50).collect();
    words.extend([0x7E02_0000, 0x0002_0000, 0x0200_0000, 0x1000_0000, 0x4000_0000, 0x8000_0000, 0x0001_0011, 0x003D_0F00]);
    words.extend([0x20000, 0x20008, 0x40000, 0xFFFF_FFFF, 0xFFFF_FFFE, 58, 132, 255, 262]);
    words.extend(policy::STRICT_IOCTLS.iter().flat_map(|&(a, b)| [a - 1, a, b, b + 1]).map(u64::from));
    words.extend([0x5412, 0x541C, 0x5423, 0x4008_6602, 0x401C_5820]);
    let high = [0, 1 << 32, 0xFFFF_FFFF << 32];
    let mut all = Vec::new();
    for word in words {
        for top in high {
            all.push([word | top, word | top, 0, 0, 0, 0]);
            for protocol in [1, 4, 6, 9, 15, 16, 17, 58, 132, 1 << 32, 6 | 1 << 32] {
                all.push([word | top, 1, protocol, 0, 0, 0]);
            }
        }
    }
    all
}

#[test]
fn every_number_and_argument_meets_its_verdict() {
    let arguments = arguments();
    for arch in [Arch::X86_64, Arch::Aarch64] {
        for (strict, ptrace) in [(false, false), (false, true), (true, false), (true, true)] {
            let source = if strict { Source::Strict } else { Source::Default };
            let filter = compile(&Request { ptrace, ..request(source, arch) }).unwrap();
            let by_argument = ["clone", "socket", "socketpair", "ioctl", "personality"].map(|name| number(name, arch));
            let beyond = [u32::MAX, X32_BIT - 1, X32_BIT, X32_BIT + 16, X32_BIT + 41, X32_BIT + 520, 0x8000_0000];
            for number in (0..1024).chain(beyond) {
                let cases: &[_] = if by_argument.contains(&number) { &arguments } else { &[[0; 6], [u64::MAX; 6]] };
                for arguments in cases {
                    let data = Data { number, arch: arch.audit(), arguments: *arguments };
                    assert_eq!(
                        run(&filter.program, &data),
                        expected(strict, ptrace, arch, &data),
                        "{number} {arguments:x?} {arch:?} strict {strict} ptrace {ptrace}"
                    );
                }
                for foreign in [I386, 0, !arch.audit(), if arch == Arch::X86_64 { 0xC000_00B7 } else { 0x4000_0028 }] {
                    assert_eq!(run(&filter.program, &Data { number, arch: foreign, ..Data::default() }), KILL);
                }
            }
        }
    }
}

#[test]
fn calls_without_argument_rules_are_free_of_charge() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        for source in [Source::Default, Source::Strict] {
            let filter = compile(&request(source, arch)).unwrap();
            let free = (0..LIMIT as u32).filter(|n| always_allowed(&filter.program, *n, arch.audit())).count();
            assert_eq!(free, filter.allowed - 5, "all but clone, socket, socketpair, ioctl, personality");
        }
    }
}

// ---- wishes

#[test]
fn nested_userns_opens_namespaces_and_mounts() {
    let filter = compile(&Request { nested_userns: true, ..request(Source::Default, Arch::X86_64) }).unwrap();
    for name in ["unshare", "setns", "clone3", "mount", "umount2", "pivot_root", "fsopen", "move_mount", "mount_setattr", "sethostname"] {
        assert_eq!(ask(&filter, Arch::X86_64, name, &[]), ALLOW, "{name}");
    }
    assert_eq!(ask(&filter, Arch::X86_64, "clone", &[0x1002_0011]), ALLOW);
    assert_eq!(ask(&filter, Arch::X86_64, "bpf", &[]), EPERM);
    assert_eq!(ask(&filter, Arch::X86_64, "keyctl", &[]), EPERM);
    let strict = compile(&Request { nested_userns: true, ..request(Source::Strict, Arch::X86_64) });
    assert!(matches!(strict, Err(Error::Conflict { .. })));
}

/// No network.
const ALONE: SameUser = SameUser { network: false };

fn same_user(source: Source<'_>, same_user: SameUser) -> Filter {
    let filter = compile(&Request { same_user: Some(same_user), ..request(source, Arch::X86_64) }).unwrap();
    check(&filter.program);
    filter
}

#[test]
fn without_namespaces_what_landlock_leaves_open_is_shut() {
    let open = parse(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
    for source in [Source::Default, Source::Strict, Source::None, Source::Oci(&open)] {
        let filter = same_user(source, ALONE);
        for name in [
            "chown",
            "lchown",
            "fchownat",
            "utimes",
            "fchown",
            "file_setattr",
            "shmget",
            "shmat",
            "msgget",
            "semget",
            "mq_open",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "pidfd_getfd",
            "kcmp",
            "inotify_init1",
            "inotify_add_watch",
            "fanotify_init",
            "name_to_handle_at",
            "open_by_handle_at",
            "keyctl",
            "request_key",
            "io_uring_setup",
            "io_uring_enter",
            "openat2",
        ] {
            assert!([EPERM, ENOSYS].contains(&ask(&filter, Arch::X86_64, name, &[])), "{source:?} {name}");
        }
        for name in [
            "getxattr",
            "lgetxattr",
            "listxattr",
            "llistxattr",
            "getxattrat",
            "listxattrat",
            "fsetxattr",
            "fremovexattr",
            "setxattr",
            "lsetxattr",
            "setxattrat",
            "removexattr",
            "lremovexattr",
        ] {
            assert!([ENOTSUP, ENOSYS].contains(&ask(&filter, Arch::X86_64, name, &[])), "{source:?} {name}");
        }
        for family in [0, 1, 2, 10, 16, 17, 38, 40, 43, 2 | 1 << 32] {
            assert_eq!(ask(&filter, Arch::X86_64, "socket", &[family, 1, 0]), EAFNOSUPPORT, "{source:?} {family}");
        }
        for name in ["chmod", "fchmodat", "fchmodat2", "fchmod"] {
            assert_eq!(ask(&filter, Arch::X86_64, name, &[]), ASK, "{source:?} {name}");
        }
        for (name, arguments, wanted) in [
            ("socketpair", &[1, 1][..], ALLOW),
            ("socketpair", &[1, 0x80805], ALLOW),
            ("socketpair", &[1, 2], EPERM),
            ("socketpair", &[1, 3], EPERM),
            ("socketpair", &[30, 1], EAFNOSUPPORT),
            ("open", &[0, 0], ALLOW),
            ("open", &[0, 0x80241], ALLOW),
            ("open", &[0, 3], EPERM),
            ("openat", &[0, 0, 2], ALLOW),
            ("openat", &[0, 0, 0x80003], EPERM),
            ("utimensat", &[5, 0], ASK),
            ("utimensat", &[5, 77], ASK),
            ("seccomp", &[1, 0], ALLOW),
            ("seccomp", &[1, 8], EPERM),
            ("seccomp", &[1, 0x28], EPERM),
            ("seccomp", &[1, 0xFF_0000_0008], EPERM),
            ("kill", &[0, 15], ALLOW),
            ("kill", &[77, 9], ALLOW),
            ("kill", &[u64::MAX, 9], EPERM),
            ("kill", &[0xFFFF_FFFF, 9], EPERM),
            ("prlimit64", &[0, 7], ALLOW),
            ("prlimit64", &[77, 7], EPERM),
            ("sched_setaffinity", &[0], ALLOW),
            ("sched_setaffinity", &[77], EPERM),
            ("setpriority", &[0, 0, 5], ALLOW),
            ("setpriority", &[0, 77, 5], EPERM),
            ("setpriority", &[2, 0, 5], EPERM),
            ("ioctl", &[0, 0x5413], ALLOW),
            ("ioctl", &[0, 0x5412], EPERM),
            ("ioctl", &[0, 0x4008_6602], EPERM),
            ("ioctl", &[0, 0x401C_5820], EPERM),
            ("ioctl", &[0, 0x4008_6602], EPERM),
            ("ioctl", &[0, 0x5000_9401], EPERM),
        ] {
            let verdict = ask(&filter, Arch::X86_64, name, arguments);
            // strict has few ioctls, and says ENOTTY to the others.
            let shut = wanted == EPERM && verdict == ENOTTY;
            assert!(verdict == wanted || shut, "{source:?} {name} {arguments:x?}: {verdict:x}");
        }
        assert_eq!(run(&filter.program, &Data { number: 41 | X32_BIT, arch: Arch::X86_64.audit(), ..Data::default() }), ENOSYS);
        assert_eq!(run(&filter.program, &Data { number: 41, arch: I386, ..Data::default() }), KILL);
    }
}

#[test]
fn without_namespaces_some_is_let_through_where_it_is_asked_for() {
    let network = same_user(Source::Default, SameUser { network: true });
    for (family, protocol, wanted) in
        [(2, 0, ALLOW), (10, 6, ALLOW), (16, 0, ALLOW), (16, 9, EPROTONOSUPPORT), (1, 0, EAFNOSUPPORT), (38, 0, EAFNOSUPPORT)]
    {
        assert_eq!(ask(&network, Arch::X86_64, "socket", &[family, 1, protocol]), wanted, "{family} {protocol}");
    }
    // reflink copies, on any file system
    assert_eq!(ask(&network, Arch::X86_64, "ioctl", &[0, 0x4004_9409]), ALLOW);
}

#[test]
fn without_namespaces_a_profile_may_refuse_more_and_allow_no_more() {
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["fchmodat"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 511, "op": "SCMP_CMP_EQ"}]},
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO",
         "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 7, "op": "SCMP_CMP_EQ"}]}]}"#;
    let profile = parse(text).unwrap();
    let oci = same_user(Source::Oci(&profile), SameUser { network: true });
    assert_eq!(ask(&oci, Arch::X86_64, "socket", &[2, 1, 7]), EPERM, "the profile asks more of such a socket");
    assert_eq!(ask(&oci, Arch::X86_64, "socket", &[2, 1, 6]), ALLOW);
    assert_eq!(ask(&oci, Arch::X86_64, "fchmodat", &[]), EPERM, "what is refused is not asked for");
    assert_eq!(ask(&oci, Arch::X86_64, "chmod", &[0, 0o600]), EPERM, "nor is what an argument decides");
    assert_eq!(ask(&oci, Arch::X86_64, "fchmodat2", &[]), ASK);
    for name in ["socket", "chmod", "fchmod", "@io-uring", "io_uring_enter", "@ptrace", "@ipc", "@xattr", "prlimit64", "openat2"] {
        let allow = [name.to_string()];
        let made = compile(&Request { same_user: Some(ALONE), allow: &allow, ..request(Source::Default, Arch::X86_64) });
        assert!(matches!(made, Err(Error::Conflict { .. })), "{name}");
    }
}

#[test]
fn none_is_no_filter() {
    let filter = compile(&request(Source::None, Arch::X86_64)).unwrap();
    assert!(filter.program.is_empty());
    assert_eq!(filter.allowed, 385);
}

#[test]
fn capabilities_open_their_calls() {
    let with = |source, caps: &[&str]| compile(&Request { caps, ..request(source, Arch::X86_64) }).unwrap();
    assert_eq!(ask(&with(Source::Default, &["SYS_CHROOT"]), Arch::X86_64, "chroot", &[]), ALLOW);
    assert_eq!(ask(&with(Source::Default, &["CAP_SYS_CHROOT"]), Arch::X86_64, "chroot", &[]), ALLOW);
    assert_eq!(ask(&with(Source::Default, &["SYS_ADMIN"]), Arch::X86_64, "mount", &[]), ALLOW);
    assert_eq!(ask(&with(Source::Default, &["SYS_ADMIN"]), Arch::X86_64, "bpf", &[]), EPERM);
    assert_eq!(ask(&with(Source::Default, &["SYS_TIME", "SYS_MODULE"]), Arch::X86_64, "clock_settime", &[]), EPERM);
    assert_eq!(ask(&with(Source::Strict, &["SYS_CHROOT"]), Arch::X86_64, "chroot", &[]), EPERM);
    let root = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"];
    assert_eq!(with(Source::Default, &root), with(Source::Default, &[]));
}

#[test]
fn allow_takes_names_and_groups() {
    let make = |source, allow: &[&str], arch| {
        let allow: Vec<String> = allow.iter().map(|name| name.to_string()).collect();
        compile(&Request { allow: &allow, ..request(source, arch) })
    };
    let filter = make(Source::Default, &["@keyring", "chroot", "socket"], Arch::X86_64).unwrap();
    for name in ["keyctl", "add_key", "request_key", "chroot"] {
        assert_eq!(ask(&filter, Arch::X86_64, name, &[]), ALLOW, "{name}");
    }
    assert_eq!(ask(&filter, Arch::X86_64, "socket", &[38, 5, 0]), ALLOW);
    assert_eq!(filter.notes, ["seccomp_allow: socket is let through with all arguments"]);
    let strict = make(Source::Strict, &["@splice"], Arch::X86_64).unwrap();
    assert_eq!(ask(&strict, Arch::X86_64, "splice", &[]), ALLOW);
    for group in GROUPS {
        assert!(make(Source::Default, &[group.name], Arch::Aarch64).is_ok());
    }
    let absent = make(Source::Default, &["open"], Arch::Aarch64).unwrap();
    assert_eq!(absent.notes, ["seccomp_allow: open does not exist on this architecture"]);
}

#[test]
fn unknown_names_are_errors_with_the_nearest() {
    let message = |allow: &str| {
        let allow = ["chroot".to_string(), allow.to_string()];
        compile(&Request { allow: &allow, ..request(Source::Default, Arch::X86_64) }).unwrap_err().to_string()
    };
    assert_eq!(message("io_urin_setup"), "seccomp_allow[1]: there is no system call \"io_urin_setup\"; did you mean \"io_uring_setup\"?");
    assert_eq!(message("@keyrings"), "seccomp_allow[1]: there is no group \"@keyrings\"; did you mean \"@keyring\"?");
    assert_eq!(message("frobnicate"), "seccomp_allow[1]: there is no system call \"frobnicate\"");
    assert_eq!(message(""), "seccomp_allow[1]: there is no system call \"\"");
    assert!(matches!(message(&"x".repeat(100_000)).len(), 100_000..101_000));
    // Also where nothing is filtered.
    let allow = ["opne".to_string()];
    assert!(compile(&Request { allow: &allow, ..request(Source::None, Arch::X86_64) }).is_err());
}

// ---- the instructions

#[test]
fn random_ranges_lead_where_they_say() {
    let mut random = Random(7);
    for round in 0..300 {
        let mut graph = Graph::default();
        let verdicts: Vec<Node> = (0..1 + random.below(6) as u32).map(|n| graph.verdict(errno(n))).collect();
        // The longest rounds need stepping stones: more than 255 instructions.
        let many = if round % 10 == 0 { 900 } else { 1 + random.below(80) };
        let mut ranges: Vec<(u32, Node)> = vec![(0, random.pick(&verdicts))];
        for _ in 0..many {
            let gap = if random.below(2) == 0 { 1 } else { 1 + random.below(30) as u32 };
            let (last, node) = *ranges.last().unwrap();
            let next = random.pick(&verdicts);
            if next != node {
                ranges.push((last + gap, next));
            }
        }
        let root = graph.ranges(Word::NUMBER, &ranges);
        let program = graph.assemble(root).unwrap();
        check(&program);
        for number in 0..ranges.last().unwrap().0 + 3 {
            let (_, node) = ranges.iter().rev().find(|(start, _)| *start <= number).unwrap();
            let index = verdicts.iter().position(|verdict| verdict == node).unwrap();
            assert_eq!(run(&program, &Data { number, ..Data::default() }), errno(index as u32), "round {round}, number {number}");
        }
    }
}

fn random_condition(random: &mut Random) -> Condition {
    let value = random.word();
    let compare = match random.below(7) {
        0 => Compare::Equal(value),
        1 => Compare::NotEqual(value),
        2 => Compare::Less(value),
        3 => Compare::AtMost(value),
        4 => Compare::AtLeast(value),
        5 => Compare::Greater(value),
        _ => Compare::Masked { mask: random.word(), value },
    };
    Condition { argument: random.below(6) as u8, compare }
}

fn holds(condition: &Condition, arguments: &[u64; 6]) -> bool {
    let argument = arguments[usize::from(condition.argument)];
    match condition.compare {
        Compare::Equal(value) => argument == value,
        Compare::NotEqual(value) => argument != value,
        Compare::Less(value) => argument < value,
        Compare::AtMost(value) => argument <= value,
        Compare::AtLeast(value) => argument >= value,
        Compare::Greater(value) => argument > value,
        Compare::Masked { mask, value } => argument & mask == value,
    }
}

/// The value that a condition names, one off it, and the like.
fn near(random: &mut Random, condition: &Condition) -> u64 {
    let value = match condition.compare {
        Compare::Equal(v) | Compare::NotEqual(v) | Compare::Less(v) | Compare::AtMost(v) | Compare::AtLeast(v) | Compare::Greater(v) => v,
        Compare::Masked { mask, value } => value & mask | (random.next() & !mask),
    };
    match random.below(5) {
        0 => value,
        1 => value.wrapping_add(1),
        2 => value.wrapping_sub(1),
        3 => value ^ (1 << random.below(64)),
        _ => random.word(),
    }
}

#[test]
fn conditions_compare_all_64_bits() {
    let mut random = Random(11);
    for _ in 0..3000 {
        let condition = random_condition(&mut random);
        let mut graph = Graph::default();
        let (yes, no) = (graph.verdict(ALLOW), graph.verdict(EPERM));
        let root = condition.test(&mut graph, yes, no);
        let program = graph.assemble(root).unwrap();
        check(&program);
        for _ in 0..40 {
            let mut arguments = [0; 6];
            arguments[usize::from(condition.argument)] = near(&mut random, &condition);
            let verdict = run(&program, &Data { arguments, ..Data::default() });
            assert_eq!(verdict == ALLOW, holds(&condition, &arguments), "{condition:x?} {arguments:x?}");
        }
    }
}

#[test]
fn random_profiles_do_what_their_entries_say() {
    let mut random = Random(13);
    let arch = Arch::X86_64;
    for _ in 0..60 {
        let names: Vec<&str> = (0..8).map(|_| table::CALLS[random.below(385) as usize].0).collect();
        let entries: Vec<(Vec<&str>, u32, Vec<Condition>)> = (0..random.below(60))
            .map(|n| {
                let conditions = (0..random.below(4)).map(|i| Condition { argument: i as u8, ..random_condition(&mut random) }).collect();
                ((0..=random.below(3)).map(|_| random.pick(&names)).collect(), n as u32 + 10, conditions)
            })
            .collect();
        let json: Vec<String> = entries
            .iter()
            .map(|(names, number, conditions)| {
                let args: Vec<String> = conditions.iter().map(json).collect();
                format!(r#"{{"names":{names:?},"action":"SCMP_ACT_ERRNO","errnoRet":{number},"args":[{}]}}"#, args.join(","))
            })
            .collect();
        let text = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#, json.join(","));
        let profile = parse(&text).unwrap();
        let filter = compile(&request(Source::Oci(&profile), arch)).unwrap();
        check(&filter.program);
        for name in &names {
            for _ in 0..60 {
                let own: Vec<_> = entries.iter().filter(|(names, ..)| names.contains(name)).collect();
                let mut arguments = [(); 6].map(|()| random.word());
                for condition in own.iter().flat_map(|(.., conditions)| conditions) {
                    if random.below(3) > 0 {
                        arguments[usize::from(condition.argument)] = near(&mut random, condition);
                    }
                }
                let plain = own.iter().find(|(.., conditions)| conditions.is_empty());
                let first = plain.or_else(|| own.iter().find(|(.., conditions)| conditions.iter().all(|c| holds(c, &arguments))));
                let verdict = first.map_or(ALLOW, |(_, number, _)| errno(*number));
                assert_eq!(ask(&filter, arch, name, &arguments), verdict, "{name} {arguments:x?}\n{text}");
            }
        }
    }
}

fn json(condition: &Condition) -> String {
    let (op, value, second) = match condition.compare {
        Compare::Equal(v) => ("EQ", v, 0),
        Compare::NotEqual(v) => ("NE", v, 0),
        Compare::Less(v) => ("LT", v, 0),
        Compare::AtMost(v) => ("LE", v, 0),
        Compare::AtLeast(v) => ("GE", v, 0),
        Compare::Greater(v) => ("GT", v, 0),
        Compare::Masked { mask, value } => ("MASKED_EQ", mask, value),
    };
    format!(r#"{{"index":{},"value":{value},"valueTwo":{second},"op":"SCMP_CMP_{op}"}}"#, condition.argument)
}

// ---- profiles in Docker's format

const SMALL: &str = r#"{
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": null}
    ],
    "syscalls": [
        {"names": ["read", "write", "chown32", "socketcall", "frobnicate", "faccessat2"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["kcmp"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.19"}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ"}],
         "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390x"]}},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "errno": "EINVAL",
         "args": [{"index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 9, "op": "SCMP_CMP_EQ"}]},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {"caps": ["CAP_X"]}},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
        {"names": ["sync"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}}
    ]
}"#;

#[test]
fn a_profile_of_dockers_kind() {
    let profile = parse(SMALL).unwrap();
    let filter = compile(&Request { caps: &["BPF"], ..request(Source::Oci(&profile), Arch::X86_64) }).unwrap();
    check(&filter.program);
    let ask = |name, arguments: &[u64]| ask(&filter, Arch::X86_64, name, arguments);
    assert_eq!((ask("read", &[]), ask("ptrace", &[]), ask("sync", &[])), (ALLOW, ALLOW, ALLOW));
    assert_eq!((ask("kcmp", &[]), ask("bpf", &[]), ask("open", &[])), (EPERM, EPERM, EPERM));
    assert_eq!((ask("clone", &[0x11]), ask("clone", &[0x1000_0000]), ask("clone3", &[])), (ALLOW, EPERM, ENOSYS));
    // Two conditions on one argument: either is enough. 64 bits count.
    assert_eq!((ask("personality", &[0]), ask("personality", &[8]), ask("personality", &[9])), (ALLOW, ALLOW, EPERM));
    assert_eq!(ask("personality", &[1 << 32]), EPERM);
    // An entry without conditions beats those with.
    assert_eq!(ask("socket", &[16, 3, 9]), ALLOW);
    // Newer than the newest that is named (faccessat2, 439), and unknown.
    assert_eq!((ask("pidfd_getfd", &[]), ask("process_madvise", &[]), ask("mseal", &[])), (EPERM, ENOSYS, ENOSYS));
    assert_eq!(run(&filter.program, &Data { number: 1000, arch: Arch::X86_64.audit(), ..Data::default() }), ENOSYS);
    assert_eq!(run(&filter.program, &Data { number: 3, arch: I386, ..Data::default() }), KILL);
    assert_eq!(
        filter.notes,
        [
            "programs of other ABIs stay shut out, though the profile lists SCMP_ARCH_X86, SCMP_ARCH_X32",
            "calls that are not known here stay shut (ENOSYS): frobnicate",
            "an entry without conditions makes others for the same call idle: socket",
        ]
    );
    let admin = compile(&Request { caps: &["SYS_ADMIN", "CAP_BPF"], ..request(Source::Oci(&profile), Arch::X86_64) }).unwrap();
    assert_eq!(super::tests::ask(&admin, Arch::X86_64, "bpf", &[]), ALLOW);
    assert_eq!(super::tests::ask(&admin, Arch::X86_64, "clone", &[0]), EPERM);
    let arm = compile(&request(Source::Oci(&profile), Arch::Aarch64)).unwrap();
    assert_eq!(super::tests::ask(&arm, Arch::Aarch64, "sync", &[]), EPERM);
    assert_eq!(arm.notes[0], "the profile does not list SCMP_ARCH_AARCH64; it is applied all the same");
}

#[test]
fn a_profile_that_lets_all_through_says_so() {
    let profile = parse(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#).unwrap();
    let filter = compile(&request(Source::Oci(&profile), Arch::X86_64)).unwrap();
    assert_eq!(ask(&filter, Arch::X86_64, "mount", &[]), KILL);
    assert_eq!(ask(&filter, Arch::X86_64, "mseal", &[]), ALLOW);
    assert_eq!(filter.allowed, 384);
    assert!(filter.notes[0].contains("default action lets calls through"));
}

#[test]
fn actions_are_the_kernels() {
    for (action, number, verdict) in [
        ("ALLOW", "", ALLOW),
        ("LOG", "", 0x7FFC_0000),
        ("TRAP", "", 0x0003_0000),
        ("KILL", "", 0),
        ("KILL_THREAD", "", 0),
        ("KILL_PROCESS", "", 0x8000_0000),
        ("ERRNO", "", EPERM),
        ("ERRNO", r#","errnoRet":0"#, errno(0)),
        ("ERRNO", r#","errnoRet":4095"#, errno(4095)),
        ("ERRNO", r#","errno":"ENOSYS""#, ENOSYS),
        ("ERRNO", r#","errnoRet":38,"errno":"ENOSYS""#, ENOSYS),
        ("TRACE", r#","errnoRet":7"#, 0x7FF0_0007),
    ] {
        let text = format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"name":"read","action":"SCMP_ACT_{action}"{number}}}]}}"#);
        let profile = parse(&text).unwrap();
        let filter = compile(&request(Source::Oci(&profile), Arch::X86_64)).unwrap();
        assert_eq!(ask(&filter, Arch::X86_64, "read", &[]), verdict, "{action}{number}");
    }
}

#[test]
fn faults_name_their_place() {
    let entry = |entry: &str| {
        format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW"}},{entry}]}}"#)
    };
    let args = |args: &str| entry(&format!(r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{args}]}}"#));
    for (text, fault) in [
        ("".into(), "not JSON: "),
        ("[]".into(), "profile: not an object"),
        ("{}".into(), "profile: defaultAction is missing"),
        (r#"{"defaultAction":"ALLOW"}"#.into(), "defaultAction: not an action"),
        (r#"{"defaultAction":7}"#.into(), "defaultAction: not a string"),
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#.into(), "defaultAction: notifications are not supported"),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#.into(), "defaultErrnoRet: greater than 4095"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":1}"#.into(), "defaultErrnoRet: goes with SCMP_ACT_ERRNO"),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrno":"EFOO"}"#.into(), "defaultErrno: an errno that is not known by name"),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"defaultErrno":"ENOSYS"}"#.into(),
            "defaultErrnoRet: the errno by number",
        ),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultaction":1}"#.into(), "profile: the key \"defaultaction\" is unknown"),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultAction":"SCMP_ACT_ALLOW"}"#.into(),
            "not JSON: the key \"defaultAction\" stands twice",
        ),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["x86"]}"#.into(), "architectures[0]: not the name of an architecture"),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO","flags":["X"]}"#.into(), "flags[0]: not a flag"),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO","listenerPath":"/x"}"#.into(), "listenerPath: notifications are not supported"),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":{}}"#.into(), "syscalls: not a list"),
        (entry("7"), "syscalls[1]: not an object"),
        (entry("{}"), "syscalls[1]: names is missing or empty"),
        (entry(r#"{"names":[]}"#), "syscalls[1]: names is missing or empty"),
        (entry(r#"{"names":["read",""]}"#), "syscalls[1].names[1]: not the name of a system call"),
        (entry(r#"{"names":["re ad"]}"#), "syscalls[1].names[0]: not the name of a system call"),
        (entry(r#"{"names":["read"]}"#), "syscalls[1]: action is missing"),
        (entry(r#"{"names":["read"],"name":"write","action":"SCMP_ACT_ALLOW"}"#), "syscalls[1]: name and names exclude each other"),
        (entry(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","arg":[]}"#), "syscalls[1]: the key \"arg\" is unknown"),
        (entry(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","errnoRet":1}"#), "syscalls[1].errnoRet: goes with SCMP_ACT_ERRNO"),
        (
            entry(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"cap":[]}}"#),
            "syscalls[1].includes: the key \"cap\" is unknown",
        ),
        (
            entry(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["SYS_ADMIN"]}}"#),
            "syscalls[1].includes.caps[0]: not the name",
        ),
        (
            entry(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","excludes":{"minKernel":"new"}}"#),
            "syscalls[1].excludes.minKernel: not a kernel",
        ),
        (args("7"), "syscalls[1].args[0]: not an object"),
        (args(r#"{"value":1,"op":"SCMP_CMP_EQ"}"#), "syscalls[1].args[0]: index is missing"),
        (args(r#"{"index":6,"value":1,"op":"SCMP_CMP_EQ"}"#), "syscalls[1].args[0].index: a system call has the arguments 0 to 5"),
        (args(r#"{"index":0,"op":"SCMP_CMP_EQ"}"#), "syscalls[1].args[0]: value is missing"),
        (args(r#"{"index":0,"value":1}"#), "syscalls[1].args[0]: op is missing"),
        (args(r#"{"index":0,"value":1,"op":"=="}"#), "syscalls[1].args[0].op: not a comparison"),
        (args(r#"{"index":0,"value":"1","op":"SCMP_CMP_EQ"}"#), "syscalls[1].args[0].value: not a whole number"),
        (args(r#"{"index":0,"value":-1,"op":"SCMP_CMP_EQ"}"#), "not JSON: invalid type: integer `-1`"),
        (args(r#"{"index":0,"value":1.5,"op":"SCMP_CMP_EQ"}"#), "not JSON: invalid type: floating point `1.5`"),
        (args(r#"{"index":0,"value":18446744073709551616,"op":"SCMP_CMP_EQ"}"#), "not JSON: "),
    ] {
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.starts_with(fault), "{text}\n  gives {message:?}\n  not   {fault:?}");
    }
}

#[test]
fn sizes_are_bounded() {
    let entries =
        |count: usize, entry: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#, vec![entry; count].join(","));
    let plain = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#;
    assert!(parse(&entries(MAX_ENTRIES, plain)).is_ok());
    assert!(parse(&entries(MAX_ENTRIES + 1, plain)).is_err());
    assert_eq!(parse(&" ".repeat(MAX_BYTES + 1)), Err(OciError::TooLarge));
    assert!(parse(&"[".repeat(MAX_BYTES)).is_err());
    let condition = r#"{"index":0,"value":1,"op":"SCMP_CMP_EQ"}"#;
    let many = |count: usize| format!(r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{}]}}"#, vec![condition; count].join(","));
    assert!(parse(&entries(1, &many(32))).is_ok());
    assert!(parse(&entries(1, &many(33))).is_err());
    // More conditions than instructions: an error, in bounded time and memory.
    let profile = parse(&entries(MAX_ENTRIES, &many(3))).unwrap();
    assert!(matches!(compile(&request(Source::Oci(&profile), Arch::X86_64)), Err(Error::TooLong(_))));
    // Ways through many conditions multiply; nothing may try them all.
    let three =
        r#"{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":1,"op":"SCMP_CMP_EQ"},{"index":2,"value":1,"op":"SCMP_CMP_EQ"}"#;
    let profile = parse(&entries(300, &format!(r#"{{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{three}]}}"#))).unwrap();
    assert_eq!(compile(&Request { same_user: Some(ALONE), ..request(Source::Oci(&profile), Arch::X86_64) }).unwrap().allowed, 0);
    // As many names as there is room for.
    let names: Vec<String> = (0..90_000).map(|n| format!("{n:x}")).collect();
    let profile = parse(&entries(1, &format!(r#"{{"names":{names:?},"action":"SCMP_ACT_ALLOW"}}"#).replace(", ", ","))).unwrap();
    let notes = compile(&request(Source::Oci(&profile), Arch::X86_64)).unwrap().notes;
    assert!(notes[0].ends_with("and 89992 more") && notes[0].len() < 200);
    // Nearly as many are fine.
    let profile = parse(&entries(300, &many(3))).unwrap();
    check(&compile(&request(Source::Oci(&profile), Arch::X86_64)).unwrap().program);
}
