//! What the filters named `default` and `strict` let through, and the `@groups` of `seccomp_allow`. Data, with the reasons.

use super::table::{Arch, Set};

/// Calls that stand or fall together.
pub struct Group {
    /// As `seccomp_allow` takes it; empty where the group cannot be named there.
    pub name: &'static str,
    /// What needs the calls, or what they are for.
    pub about: &'static str,
    pub calls: &'static [&'static str],
}

const fn needed(about: &'static str, calls: &'static [&'static str]) -> Group {
    Group { name: "", about, calls }
}

const fn named(name: &'static str, about: &'static str, calls: &'static [&'static str]) -> Group {
    Group { name, about, calls }
}

/// The default policy: an allow list, and nothing in it that Docker's default refuses but `uprobe`, which the kernel lets past every
/// filter. `clone`, `socket`, `socketpair`, `ioctl` and `personality` are in it, and are let through by argument.
#[rustfmt::skip]
pub const DEFAULT: &[Group] = &[
    needed(
        "memory of every program",
        &[
            "brk", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "mincore", "mlock", "mlock2", "mlockall", "mmap",
            "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect",
        ],
    ),
    needed(
        "opening, reading and writing",
        &[
            "close", "close_range", "creat", "dup", "dup2", "dup3", "fcntl", "flock", "ioctl", "lseek", "open", "openat", "openat2", "pipe",
            "pipe2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readv", "write", "writev",
        ],
    ),
    needed(
        "looking at files and directories",
        &[
            "access", "chdir", "faccessat", "faccessat2", "fchdir", "fstat", "fstatfs", "getcwd", "getdents", "getdents64", "lstat",
            "newfstatat", "readlink", "readlinkat", "stat", "statfs", "statx",
        ],
    ),
    needed(
        "changing files and directories; mknod is how a FIFO is made, and the kernel keeps devices out",
        &[
            "chmod", "chown", "fallocate", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "ftruncate", "futimesat", "lchown",
            "link", "linkat", "mkdir", "mkdirat", "mknod", "mknodat", "rename", "renameat", "renameat2", "rmdir", "symlink", "symlinkat",
            "truncate", "umask", "unlink", "unlinkat", "utime", "utimensat", "utimes",
        ],
    ),
    needed(
        "extended attributes: cp -a, tar, rsync, installers",
        &[
            "fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "getxattrat", "lgetxattr", "listxattr", "listxattrat",
            "llistxattr", "lremovexattr", "lsetxattr", "removexattr", "removexattrat", "setxattr", "setxattrat",
        ],
    ),
    needed(
        "data on disk, and read-ahead: databases, package managers",
        &["cachestat", "fadvise64", "fdatasync", "fsync", "readahead", "sync", "sync_file_range", "syncfs"],
    ),
    needed(
        "copies inside the kernel: cp, Go's and Python's copy loops, web servers",
        &["copy_file_range", "sendfile", "splice", "tee", "vmsplice"],
    ),
    needed(
        "the mount table of its own namespace, which /proc/self/mountinfo shows as well: findmnt, libmount",
        &["listmount", "statmount"],
    ),
    needed(
        "waiting: every event loop",
        &[
            "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd", "eventfd2", "poll",
            "ppoll", "pselect6", "select", "signalfd", "signalfd4", "timerfd_create", "timerfd_gettime", "timerfd_settime",
        ],
    ),
    needed("file watchers: dev servers, tail -f", &["inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch"]),
    needed(
        "the older asynchronous I/O: nginx, MySQL, qemu; they fall back badly without it",
        &["io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit"],
    ),
    needed(
        "sockets; which families, the argument rules say",
        &[
            "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg", "recvmsg",
            "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socket", "socketpair",
        ],
    ),
    needed(
        "processes and threads; clone without new namespaces",
        &[
            "arch_prctl", "clone", "execve", "execveat", "exit", "exit_group", "fork", "get_robust_list", "getcpu", "getpgid", "getpgrp",
            "getpid", "getppid", "getrusage", "getsid", "gettid", "personality", "pidfd_open", "pidfd_send_signal", "prctl", "rseq",
            "set_robust_list", "set_tid_address", "setpgid", "setsid", "sysinfo", "times", "uname", "vfork", "wait4", "waitid",
        ],
    ),
    needed(
        "signals; uretprobe and uprobe are called by the kernel's own trampolines when the host traces a program",
        &[
            "kill", "pause", "restart_syscall", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn",
            "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "sigaltstack", "tgkill", "tkill", "uprobe", "uretprobe",
        ],
    ),
    needed("locks between threads", &["futex", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake"]),
    needed(
        "priorities and processor sets: Java, Go, postgres, make -l; RLIMIT_RTPRIO and RLIMIT_NICE bound them",
        &[
            "getpriority", "ioprio_get", "ioprio_set", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
            "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity", "sched_setattr",
            "sched_setparam", "sched_setscheduler", "sched_yield", "setpriority",
        ],
    ),
    needed("limits of its own", &["getrlimit", "prlimit64", "setrlimit"]),
    needed(
        "who it is, and programs that start as root and change user; capabilities decide what comes of it",
        &[
            "capget", "capset", "getegid", "geteuid", "getgid", "getgroups", "getresgid", "getresuid", "getuid", "setfsgid", "setfsuid",
            "setgid", "setgroups", "setregid", "setresgid", "setresuid", "setreuid", "setuid",
        ],
    ),
    needed(
        "reading the clock, and timers",
        &[
            "alarm", "clock_getres", "clock_gettime", "clock_nanosleep", "getitimer", "gettimeofday", "nanosleep", "setitimer", "time",
            "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime",
        ],
    ),
    needed("random bytes", &["getrandom"]),
    needed(
        "System V shared memory, semaphores and queues: postgres, Oracle, X11, fakeroot",
        &["msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmdt", "shmget"],
    ),
    needed("POSIX message queues", &["mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink"]),
    needed(
        "programs that shrink their own rights further: browsers, sshd, file(1)",
        &["landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp"],
    ),
];

/// What `strict` takes away from the default, and why that is bearable. These give ENOSYS, as an old kernel would, so that programs
/// take the way round that they have for one.
#[rustfmt::skip]
pub const STRICT_WITHOUT: &[Group] = &[
    needed(
        "asynchronous I/O and splicing have a long list of kernel faults; copy loops fall back to read and write",
        &["io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit", "splice", "tee", "vmsplice"],
    ),
    needed(
        "System V IPC and message queues: databases and X11, not tools; POSIX semaphores and shared memory are files and futexes",
        &[
            "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd",
            "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmdt", "shmget",
        ],
    ),
    needed(
        "POSIX timers (CVE-2025-38352); timeout(1) and runtimes fall back to setitimer and timerfd",
        &["timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime"],
    ),
    needed(
        "writing extended attributes: code of every file system; cp -a and tar take ENOSYS for `not supported`",
        &[
            "fremovexattr", "fsetxattr", "getxattrat", "listxattrat", "lremovexattr", "lsetxattr", "removexattr", "removexattrat",
            "setxattr", "setxattrat",
        ],
    ),
    needed("flushing whole file systems of the host; fsync stays", &["sync", "sync_file_range", "syncfs"]),
    needed("facts about the page cache and the mounts", &["cachestat", "listmount", "statmount"]),
    needed("newer locks than any C library uses", &["futex_requeue", "futex_wait", "futex_waitv", "futex_wake"]),
    needed(
        "scheduling classes and disk priorities",
        &["ioprio_get", "ioprio_set", "sched_getattr", "sched_setattr", "sched_setparam", "sched_setscheduler"],
    ),
    needed("capabilities and file system ids, which servers and login programs set", &["capset", "setfsgid", "setfsuid"]),
    needed("calls that later ones replaced long ago", &["futimesat", "readahead", "signalfd", "utime"]),
];

/// Calls that only save their callers a longer way, and are refused. They give ENOSYS, not EPERM, for their callers look for that.
/// `clone3` has its flags in memory, where a filter cannot read them.
#[rustfmt::skip]
pub const LONGER_WAY: &[&str] = &["clone3", "file_getattr", "file_setattr", "lsm_get_self_attr", "lsm_list_modules", "rseq_slice_yield"];

/// What debuggers need of the processes of their own sandbox; the pid namespace and Landlock see to `own`.
pub const DEBUGGER: &Group = &needed("gdb, strace, lldb", &["process_vm_readv", "process_vm_writev", "ptrace"]);

const PTRACE: &Group = &named(
    "@ptrace",
    "reaching into other processes of the sandbox: all that debuggers, checkpointing and memory managers use",
    &["kcmp", "pidfd_getfd", "process_madvise", "process_mrelease", "process_vm_readv", "process_vm_writev", "ptrace"],
);

/// The mount family, old and new.
#[rustfmt::skip]
pub const MOUNT: &Group = &named(
    "@mount",
    "mounting, old and new calls, and changing the root; of use only with a user namespace or SYS_ADMIN",
    &[
        "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree", "open_tree_attr",
        "pivot_root", "umount2",
    ],
);

/// Namespaces. `clone` loses its argument rule, and `clone3` comes back.
pub const USERNS: &Group = &named(
    "@userns",
    "new and joined namespaces: clone and clone3 with every flag, unshare, setns, the names of a UTS namespace",
    &["clone", "clone3", "listns", "setdomainname", "sethostname", "setns", "unshare"],
);

const CHROOT: &Group = &named("@chroot", "changing the root directory", &["chroot"]);
const NUMA: &Group = &named(
    "@numa",
    "placing memory on NUMA nodes",
    &["get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node"],
);
const HANDLES: &Group = &named("@handles", "opening files by handle, past every directory", &["name_to_handle_at", "open_by_handle_at"]);

/// Calls that can open sockets and files without the system calls of those names, so that argument rules do not see them.
pub const IO_URING: &Group = &named(
    "@io-uring",
    "io_uring; most public kernel exploits of late years, and it opens sockets that no filter sees",
    &["io_uring_enter", "io_uring_register", "io_uring_setup"],
);

/// What `seccomp_allow` takes by name. systemd's names where its groups are alike.
#[rustfmt::skip]
pub const GROUPS: &[&Group] = &[
    &named(
        "@aio",
        "asynchronous I/O, without io_uring",
        &["io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit"],
    ),
    &named("@bpf", "loading BPF programs", &["bpf"]),
    CHROOT,
    &named("@clock", "setting the clock", &["adjtimex", "clock_adjtime", "clock_settime", "settimeofday"]),
    &named("@cpu-emulation", "segments for Wine and DOS emulators", &["modify_ldt"]),
    &named("@fanotify", "watching whole file systems", &["fanotify_init", "fanotify_mark"]),
    HANDLES,
    IO_URING,
    &named(
        "@ipc",
        "System V IPC and message queues, for `strict`",
        &[
            "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd",
            "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmdt", "shmget",
        ],
    ),
    &named("@keyring", "the kernel's keyrings, which know no namespaces", &["add_key", "keyctl", "request_key"]),
    &named("@memlock", "memory that the kernel itself cannot read", &["memfd_secret"]),
    &named("@module", "loading kernel modules", &["delete_module", "finit_module", "init_module"]),
    MOUNT,
    NUMA,
    &named(
        "@obsolete",
        "calls that kernels no longer have or nobody uses",
        &[
            "_sysctl", "afs_syscall", "create_module", "epoll_ctl_old", "epoll_wait_old", "get_kernel_syms", "get_thread_area", "getpmsg",
            "lookup_dcookie", "nfsservctl", "putpmsg", "query_module", "remap_file_pages", "security", "set_thread_area", "sysfs",
            "tuxcall", "uselib", "ustat", "vserver",
        ],
    ),
    &named("@perf", "performance counters", &["perf_event_open"]),
    PTRACE,
    &named("@quota", "disk quotas", &["quotactl", "quotactl_fd"]),
    &named("@raw-io", "ports of the machine", &["ioperm", "iopl"]),
    &named("@reboot", "restart and kexec", &["kexec_file_load", "kexec_load", "reboot"]),
    &named("@splice", "splicing, for `strict`", &["splice", "tee", "vmsplice"]),
    &named("@swap", "swap areas", &["swapoff", "swapon"]),
    &named("@timer", "POSIX timers, for `strict`", &["timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime"]),
    &named("@userfaultfd", "page faults handled by the program: garbage collectors, and exploits", &["userfaultfd"]),
    USERNS,
    &named(
        "@xattr",
        "writing extended attributes and inode flags",
        &[
            "file_getattr", "file_setattr", "fremovexattr", "fsetxattr", "getxattrat", "listxattrat", "lremovexattr", "lsetxattr",
            "removexattr", "removexattrat", "setxattr", "setxattrat",
        ],
    ),
];

/// Capabilities that make no sense while the filter keeps their calls shut. Those that count only outside every user namespace
/// (SYS_TIME, SYS_MODULE, SYS_RAWIO, SYSLOG, BPF and others) open nothing: the kernel would refuse anyway.
pub const CAPABILITIES: &[(&str, &[&Group])] = &[
    ("DAC_READ_SEARCH", &[HANDLES]),
    ("SYS_ADMIN", &[MOUNT, USERNS]),
    ("SYS_BOOT", &[&needed("ends the pid namespace", &["reboot"])]),
    ("SYS_CHROOT", &[CHROOT]),
    ("SYS_NICE", &[NUMA]),
    ("SYS_PTRACE", &[PTRACE]),
];

/// Namespace flags of clone and unshare: mount, cgroup, uts, ipc, user, pid, net. The time namespace is not clone's to give.
pub const NAMESPACE_FLAGS: u32 = 0x7E02_0000;

/// Ioctls that reach the terminal's other readers (TIOCSTI, TIOCLINUX), load a line discipline (TIOCSETD), or leave something on a directory
/// that is used again (FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR).
pub const REFUSED_IOCTLS: [u32; 5] = [0x5412, 0x541C, 0x5423, 0x4008_6602, 0x401C_5820];

/// The ioctls of `strict`, as ranges: terminals and pseudo-terminals, bytes waiting, close-on-exec, non-blocking and async mode.
pub const STRICT_IOCTLS: &[(u32, u32)] = &[
    (0x5401, 0x5411),           // TCGETS .. TIOCOUTQ: termios, exclusive mode, controlling terminal, foreground group
    (0x5413, 0x5414),           // TIOCGWINSZ, TIOCSWINSZ
    (0x541B, 0x541B),           // FIONREAD
    (0x5420, 0x5422),           // TIOCPKT, FIONBIO, TIOCNOTTY
    (0x5425, 0x5425),           // TCSBRKP
    (0x5429, 0x5429),           // TIOCGSID
    (0x5441, 0x5441),           // TIOCGPTPEER
    (0x5450, 0x5452),           // FIONCLEX, FIOCLEX, FIOASYNC
    (0x4004_5431, 0x4004_5431), // TIOCSPTLCK
    (0x402C_542B, 0x402C_542D), // TCSETS2, TCSETSW2, TCSETSF2
    (0x8004_5430, 0x8004_5430), // TIOCGPTN
    (0x802C_542A, 0x802C_542A), // TCGETS2
];

/// PER_LINUX, PER_LINUX32, each with UNAME26 or without, and the question which it is. The kernel looks at the low word only.
pub const PERSONALITIES: &[u32] = &[0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];
/// Staying what it is, and asking.
pub const STRICT_PERSONALITIES: &[u32] = &[0x0, 0xFFFF_FFFF];

/// Protocols of INET and INET6 in `strict`: the default of the type, ICMP, TCP, UDP, ICMPv6. Not SCTP, DCCP, L2TP, MPTCP or raw.
pub const STRICT_PROTOCOLS: &[u32] = &[0, 1, 6, 17, 58];

/// The two lists as numbers, worked out while hamper is compiled.
pub struct Lists {
    pub default: Set,
    pub strict: Set,
    pub longer_way: Set,
}

pub fn lists(arch: Arch) -> &'static Lists {
    static X86_64: Lists = Lists::of(Arch::X86_64);
    static AARCH64: Lists = Lists::of(Arch::Aarch64);
    match arch {
        Arch::X86_64 => &X86_64,
        Arch::Aarch64 => &AARCH64,
    }
}

impl Lists {
    const fn of(arch: Arch) -> Self {
        let default = union(arch, DEFAULT);
        Self { default, strict: default.without(&union(arch, STRICT_WITHOUT)), longer_way: Set::of(arch, LONGER_WAY) }
    }
}

const fn union(arch: Arch, groups: &[Group]) -> Set {
    let (mut set, mut i) = (Set::EMPTY, 0);
    while i < groups.len() {
        set = set.union(&Set::of(arch, groups[i].calls));
        i += 1;
    }
    set
}
