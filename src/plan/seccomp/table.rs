//! System call names and numbers of the two architectures, and the sets made of them while hamper itself is compiled.
//!
//! The table is our own, so that a filter for either machine can be made and tested on any. It ends with Linux 7.0. A call that is not
//! in it has no name here and no verdict of its own: its number gives ENOSYS, which is what a kernel without it says.

/// The machine that a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// The machine that this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const HOST: Self = Self::X86_64;
    /// The machine that this program was built for.
    #[cfg(target_arch = "aarch64")]
    pub const HOST: Self = Self::Aarch64;

    /// `AUDIT_ARCH_*`, as `seccomp_data.arch` has it.
    pub const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xC000_003E,
            Self::Aarch64 => 0xC000_00B7,
        }
    }

    /// The name in libseccomp's words.
    pub const fn scmp(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }

    /// The name in the words of the `arches` lists of moby's profiles.
    pub const fn moby(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

/// A bound above every number in the table. Numbers from here on, x32's included, are unknown.
pub const LIMIT: usize = 512;

/// The call does not exist on this architecture.
const __: u16 = u16::MAX;

/// A name, its number on x86-64, its number on aarch64.
pub struct Call(pub &'static str, u16, u16);

impl Call {
    pub const fn number(&self, arch: Arch) -> Option<u16> {
        let number = match arch {
            Arch::X86_64 => self.1,
            Arch::Aarch64 => self.2,
        };
        if number == __ { None } else { Some(number) }
    }
}

/// The call of that name, on any architecture.
pub const fn find(name: &str) -> Option<&'static Call> {
    let (mut low, mut high) = (0, CALLS.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match order(name.as_bytes(), CALLS[middle].0.as_bytes()) {
            0 => return Some(&CALLS[middle]),
            1 => low = middle + 1,
            _ => high = middle,
        }
    }
    None
}

/// 0 equal, 1 `a` is later, -1 `a` is earlier: `Ord` is not to be had in const functions.
const fn order(a: &[u8], b: &[u8]) -> i8 {
    let mut i = 0;
    while i < a.len() && i < b.len() {
        if a[i] != b[i] {
            return if a[i] > b[i] { 1 } else { -1 };
        }
        i += 1;
    }
    if a.len() == b.len() {
        0
    } else if a.len() > b.len() {
        1
    } else {
        -1
    }
}

/// A set of system call numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set([u64; LIMIT / 64]);

impl Set {
    pub const EMPTY: Self = Self([0; LIMIT / 64]);

    /// Every call that the table knows on this architecture.
    pub const fn known(arch: Arch) -> Self {
        const X86_64: Set = Set::walk(Arch::X86_64);
        const AARCH64: Set = Set::walk(Arch::Aarch64);
        match arch {
            Arch::X86_64 => X86_64,
            Arch::Aarch64 => AARCH64,
        }
    }

    const fn walk(arch: Arch) -> Self {
        let (mut set, mut i) = (Self::EMPTY, 0);
        while i < CALLS.len() {
            if let Some(number) = CALLS[i].number(arch) {
                set.add(number as usize);
            }
            i += 1;
        }
        set
    }

    /// The numbers of named calls; those that the architecture lacks are left out. A name that the table lacks does not compile.
    pub const fn of(arch: Arch, names: &[&str]) -> Self {
        let (mut set, mut i) = (Self::EMPTY, 0);
        while i < names.len() {
            match find(names[i]) {
                Some(call) => {
                    if let Some(number) = call.number(arch) {
                        set.add(number as usize);
                    }
                }
                None => panic!("a name that the table of system calls does not have"),
            }
            i += 1;
        }
        set
    }

    pub const fn add(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    pub const fn has(&self, number: usize) -> bool {
        number < LIMIT && self.0[number / 64] >> (number % 64) & 1 == 1
    }

    pub const fn union(mut self, other: &Self) -> Self {
        let mut i = 0;
        while i < self.0.len() {
            self.0[i] |= other.0[i];
            i += 1;
        }
        self
    }

    pub const fn without(mut self, other: &Self) -> Self {
        let mut i = 0;
        while i < self.0.len() {
            self.0[i] &= !other.0[i];
            i += 1;
        }
        self
    }

    pub const fn len(&self) -> usize {
        let (mut count, mut i) = (0, 0);
        while i < self.0.len() {
            count += self.0[i].count_ones() as usize;
            i += 1;
        }
        count
    }
}

/// Sorted by name.
///
/// # References
/// arch/x86/entry/syscalls/syscall_64.tbl, scripts/syscall.tbl of the kernel
#[rustfmt::skip]
pub static CALLS: &[Call] = &[
    Call("_sysctl", 156, __),
    Call("accept", 43, 202),
    Call("accept4", 288, 242),
    Call("access", 21, __),
    Call("acct", 163, 89),
    Call("add_key", 248, 217),
    Call("adjtimex", 159, 171),
    Call("afs_syscall", 183, __),
    Call("alarm", 37, __),
    Call("arch_prctl", 158, __),
    Call("bind", 49, 200),
    Call("bpf", 321, 280),
    Call("brk", 12, 214),
    Call("cachestat", 451, 451),
    Call("capget", 125, 90),
    Call("capset", 126, 91),
    Call("chdir", 80, 49),
    Call("chmod", 90, __),
    Call("chown", 92, __),
    Call("chroot", 161, 51),
    Call("clock_adjtime", 305, 266),
    Call("clock_getres", 229, 114),
    Call("clock_gettime", 228, 113),
    Call("clock_nanosleep", 230, 115),
    Call("clock_settime", 227, 112),
    Call("clone", 56, 220),
    Call("clone3", 435, 435),
    Call("close", 3, 57),
    Call("close_range", 436, 436),
    Call("connect", 42, 203),
    Call("copy_file_range", 326, 285),
    Call("creat", 85, __),
    Call("create_module", 174, __),
    Call("delete_module", 176, 106),
    Call("dup", 32, 23),
    Call("dup2", 33, __),
    Call("dup3", 292, 24),
    Call("epoll_create", 213, __),
    Call("epoll_create1", 291, 20),
    Call("epoll_ctl", 233, 21),
    Call("epoll_ctl_old", 214, __),
    Call("epoll_pwait", 281, 22),
    Call("epoll_pwait2", 441, 441),
    Call("epoll_wait", 232, __),
    Call("epoll_wait_old", 215, __),
    Call("eventfd", 284, __),
    Call("eventfd2", 290, 19),
    Call("execve", 59, 221),
    Call("execveat", 322, 281),
    Call("exit", 60, 93),
    Call("exit_group", 231, 94),
    Call("faccessat", 269, 48),
    Call("faccessat2", 439, 439),
    Call("fadvise64", 221, 223),
    Call("fallocate", 285, 47),
    Call("fanotify_init", 300, 262),
    Call("fanotify_mark", 301, 263),
    Call("fchdir", 81, 50),
    Call("fchmod", 91, 52),
    Call("fchmodat", 268, 53),
    Call("fchmodat2", 452, 452),
    Call("fchown", 93, 55),
    Call("fchownat", 260, 54),
    Call("fcntl", 72, 25),
    Call("fdatasync", 75, 83),
    Call("fgetxattr", 193, 10),
    Call("file_getattr", 468, 468),
    Call("file_setattr", 469, 469),
    Call("finit_module", 313, 273),
    Call("flistxattr", 196, 13),
    Call("flock", 73, 32),
    Call("fork", 57, __),
    Call("fremovexattr", 199, 16),
    Call("fsconfig", 431, 431),
    Call("fsetxattr", 190, 7),
    Call("fsmount", 432, 432),
    Call("fsopen", 430, 430),
    Call("fspick", 433, 433),
    Call("fstat", 5, 80),
    Call("fstatfs", 138, 44),
    Call("fsync", 74, 82),
    Call("ftruncate", 77, 46),
    Call("futex", 202, 98),
    Call("futex_requeue", 456, 456),
    Call("futex_wait", 455, 455),
    Call("futex_waitv", 449, 449),
    Call("futex_wake", 454, 454),
    Call("futimesat", 261, __),
    Call("get_kernel_syms", 177, __),
    Call("get_mempolicy", 239, 236),
    Call("get_robust_list", 274, 100),
    Call("get_thread_area", 211, __),
    Call("getcpu", 309, 168),
    Call("getcwd", 79, 17),
    Call("getdents", 78, __),
    Call("getdents64", 217, 61),
    Call("getegid", 108, 177),
    Call("geteuid", 107, 175),
    Call("getgid", 104, 176),
    Call("getgroups", 115, 158),
    Call("getitimer", 36, 102),
    Call("getpeername", 52, 205),
    Call("getpgid", 121, 155),
    Call("getpgrp", 111, __),
    Call("getpid", 39, 172),
    Call("getpmsg", 181, __),
    Call("getppid", 110, 173),
    Call("getpriority", 140, 141),
    Call("getrandom", 318, 278),
    Call("getresgid", 120, 150),
    Call("getresuid", 118, 148),
    Call("getrlimit", 97, 163),
    Call("getrusage", 98, 165),
    Call("getsid", 124, 156),
    Call("getsockname", 51, 204),
    Call("getsockopt", 55, 209),
    Call("gettid", 186, 178),
    Call("gettimeofday", 96, 169),
    Call("getuid", 102, 174),
    Call("getxattr", 191, 8),
    Call("getxattrat", 464, 464),
    Call("init_module", 175, 105),
    Call("inotify_add_watch", 254, 27),
    Call("inotify_init", 253, __),
    Call("inotify_init1", 294, 26),
    Call("inotify_rm_watch", 255, 28),
    Call("io_cancel", 210, 3),
    Call("io_destroy", 207, 1),
    Call("io_getevents", 208, 4),
    Call("io_pgetevents", 333, 292),
    Call("io_setup", 206, 0),
    Call("io_submit", 209, 2),
    Call("io_uring_enter", 426, 426),
    Call("io_uring_register", 427, 427),
    Call("io_uring_setup", 425, 425),
    Call("ioctl", 16, 29),
    Call("ioperm", 173, __),
    Call("iopl", 172, __),
    Call("ioprio_get", 252, 31),
    Call("ioprio_set", 251, 30),
    Call("kcmp", 312, 272),
    Call("kexec_file_load", 320, 294),
    Call("kexec_load", 246, 104),
    Call("keyctl", 250, 219),
    Call("kill", 62, 129),
    Call("landlock_add_rule", 445, 445),
    Call("landlock_create_ruleset", 444, 444),
    Call("landlock_restrict_self", 446, 446),
    Call("lchown", 94, __),
    Call("lgetxattr", 192, 9),
    Call("link", 86, __),
    Call("linkat", 265, 37),
    Call("listen", 50, 201),
    Call("listmount", 458, 458),
    Call("listns", 470, 470),
    Call("listxattr", 194, 11),
    Call("listxattrat", 465, 465),
    Call("llistxattr", 195, 12),
    Call("lookup_dcookie", 212, 18),
    Call("lremovexattr", 198, 15),
    Call("lseek", 8, 62),
    Call("lsetxattr", 189, 6),
    Call("lsm_get_self_attr", 459, 459),
    Call("lsm_list_modules", 461, 461),
    Call("lsm_set_self_attr", 460, 460),
    Call("lstat", 6, __),
    Call("madvise", 28, 233),
    Call("map_shadow_stack", 453, 453),
    Call("mbind", 237, 235),
    Call("membarrier", 324, 283),
    Call("memfd_create", 319, 279),
    Call("memfd_secret", 447, 447),
    Call("migrate_pages", 256, 238),
    Call("mincore", 27, 232),
    Call("mkdir", 83, __),
    Call("mkdirat", 258, 34),
    Call("mknod", 133, __),
    Call("mknodat", 259, 33),
    Call("mlock", 149, 228),
    Call("mlock2", 325, 284),
    Call("mlockall", 151, 230),
    Call("mmap", 9, 222),
    Call("modify_ldt", 154, __),
    Call("mount", 165, 40),
    Call("mount_setattr", 442, 442),
    Call("move_mount", 429, 429),
    Call("move_pages", 279, 239),
    Call("mprotect", 10, 226),
    Call("mq_getsetattr", 245, 185),
    Call("mq_notify", 244, 184),
    Call("mq_open", 240, 180),
    Call("mq_timedreceive", 243, 183),
    Call("mq_timedsend", 242, 182),
    Call("mq_unlink", 241, 181),
    Call("mremap", 25, 216),
    Call("mseal", 462, 462),
    Call("msgctl", 71, 187),
    Call("msgget", 68, 186),
    Call("msgrcv", 70, 188),
    Call("msgsnd", 69, 189),
    Call("msync", 26, 227),
    Call("munlock", 150, 229),
    Call("munlockall", 152, 231),
    Call("munmap", 11, 215),
    Call("name_to_handle_at", 303, 264),
    Call("nanosleep", 35, 101),
    Call("newfstatat", 262, 79),
    Call("nfsservctl", 180, 42),
    Call("open", 2, __),
    Call("open_by_handle_at", 304, 265),
    Call("open_tree", 428, 428),
    Call("open_tree_attr", 467, 467),
    Call("openat", 257, 56),
    Call("openat2", 437, 437),
    Call("pause", 34, __),
    Call("perf_event_open", 298, 241),
    Call("personality", 135, 92),
    Call("pidfd_getfd", 438, 438),
    Call("pidfd_open", 434, 434),
    Call("pidfd_send_signal", 424, 424),
    Call("pipe", 22, __),
    Call("pipe2", 293, 59),
    Call("pivot_root", 155, 41),
    Call("pkey_alloc", 330, 289),
    Call("pkey_free", 331, 290),
    Call("pkey_mprotect", 329, 288),
    Call("poll", 7, __),
    Call("ppoll", 271, 73),
    Call("prctl", 157, 167),
    Call("pread64", 17, 67),
    Call("preadv", 295, 69),
    Call("preadv2", 327, 286),
    Call("prlimit64", 302, 261),
    Call("process_madvise", 440, 440),
    Call("process_mrelease", 448, 448),
    Call("process_vm_readv", 310, 270),
    Call("process_vm_writev", 311, 271),
    Call("pselect6", 270, 72),
    Call("ptrace", 101, 117),
    Call("putpmsg", 182, __),
    Call("pwrite64", 18, 68),
    Call("pwritev", 296, 70),
    Call("pwritev2", 328, 287),
    Call("query_module", 178, __),
    Call("quotactl", 179, 60),
    Call("quotactl_fd", 443, 443),
    Call("read", 0, 63),
    Call("readahead", 187, 213),
    Call("readlink", 89, __),
    Call("readlinkat", 267, 78),
    Call("readv", 19, 65),
    Call("reboot", 169, 142),
    Call("recvfrom", 45, 207),
    Call("recvmmsg", 299, 243),
    Call("recvmsg", 47, 212),
    Call("remap_file_pages", 216, 234),
    Call("removexattr", 197, 14),
    Call("removexattrat", 466, 466),
    Call("rename", 82, __),
    Call("renameat", 264, 38),
    Call("renameat2", 316, 276),
    Call("request_key", 249, 218),
    Call("restart_syscall", 219, 128),
    Call("rmdir", 84, __),
    Call("rseq", 334, 293),
    Call("rseq_slice_yield", 471, 471),
    Call("rt_sigaction", 13, 134),
    Call("rt_sigpending", 127, 136),
    Call("rt_sigprocmask", 14, 135),
    Call("rt_sigqueueinfo", 129, 138),
    Call("rt_sigreturn", 15, 139),
    Call("rt_sigsuspend", 130, 133),
    Call("rt_sigtimedwait", 128, 137),
    Call("rt_tgsigqueueinfo", 297, 240),
    Call("sched_get_priority_max", 146, 125),
    Call("sched_get_priority_min", 147, 126),
    Call("sched_getaffinity", 204, 123),
    Call("sched_getattr", 315, 275),
    Call("sched_getparam", 143, 121),
    Call("sched_getscheduler", 145, 120),
    Call("sched_rr_get_interval", 148, 127),
    Call("sched_setaffinity", 203, 122),
    Call("sched_setattr", 314, 274),
    Call("sched_setparam", 142, 118),
    Call("sched_setscheduler", 144, 119),
    Call("sched_yield", 24, 124),
    Call("seccomp", 317, 277),
    Call("security", 185, __),
    Call("select", 23, __),
    Call("semctl", 66, 191),
    Call("semget", 64, 190),
    Call("semop", 65, 193),
    Call("semtimedop", 220, 192),
    Call("sendfile", 40, 71),
    Call("sendmmsg", 307, 269),
    Call("sendmsg", 46, 211),
    Call("sendto", 44, 206),
    Call("set_mempolicy", 238, 237),
    Call("set_mempolicy_home_node", 450, 450),
    Call("set_robust_list", 273, 99),
    Call("set_thread_area", 205, __),
    Call("set_tid_address", 218, 96),
    Call("setdomainname", 171, 162),
    Call("setfsgid", 123, 152),
    Call("setfsuid", 122, 151),
    Call("setgid", 106, 144),
    Call("setgroups", 116, 159),
    Call("sethostname", 170, 161),
    Call("setitimer", 38, 103),
    Call("setns", 308, 268),
    Call("setpgid", 109, 154),
    Call("setpriority", 141, 140),
    Call("setregid", 114, 143),
    Call("setresgid", 119, 149),
    Call("setresuid", 117, 147),
    Call("setreuid", 113, 145),
    Call("setrlimit", 160, 164),
    Call("setsid", 112, 157),
    Call("setsockopt", 54, 208),
    Call("settimeofday", 164, 170),
    Call("setuid", 105, 146),
    Call("setxattr", 188, 5),
    Call("setxattrat", 463, 463),
    Call("shmat", 30, 196),
    Call("shmctl", 31, 195),
    Call("shmdt", 67, 197),
    Call("shmget", 29, 194),
    Call("shutdown", 48, 210),
    Call("sigaltstack", 131, 132),
    Call("signalfd", 282, __),
    Call("signalfd4", 289, 74),
    Call("socket", 41, 198),
    Call("socketpair", 53, 199),
    Call("splice", 275, 76),
    Call("stat", 4, __),
    Call("statfs", 137, 43),
    Call("statmount", 457, 457),
    Call("statx", 332, 291),
    Call("swapoff", 168, 225),
    Call("swapon", 167, 224),
    Call("symlink", 88, __),
    Call("symlinkat", 266, 36),
    Call("sync", 162, 81),
    Call("sync_file_range", 277, 84),
    Call("syncfs", 306, 267),
    Call("sysfs", 139, __),
    Call("sysinfo", 99, 179),
    Call("syslog", 103, 116),
    Call("tee", 276, 77),
    Call("tgkill", 234, 131),
    Call("time", 201, __),
    Call("timer_create", 222, 107),
    Call("timer_delete", 226, 111),
    Call("timer_getoverrun", 225, 109),
    Call("timer_gettime", 224, 108),
    Call("timer_settime", 223, 110),
    Call("timerfd_create", 283, 85),
    Call("timerfd_gettime", 287, 87),
    Call("timerfd_settime", 286, 86),
    Call("times", 100, 153),
    Call("tkill", 200, 130),
    Call("truncate", 76, 45),
    Call("tuxcall", 184, __),
    Call("umask", 95, 166),
    Call("umount2", 166, 39),
    Call("uname", 63, 160),
    Call("unlink", 87, __),
    Call("unlinkat", 263, 35),
    Call("unshare", 272, 97),
    Call("uprobe", 336, __),
    Call("uretprobe", 335, __),
    Call("uselib", 134, __),
    Call("userfaultfd", 323, 282),
    Call("ustat", 136, __),
    Call("utime", 132, __),
    Call("utimensat", 280, 88),
    Call("utimes", 235, __),
    Call("vfork", 58, __),
    Call("vhangup", 153, 58),
    Call("vmsplice", 278, 75),
    Call("vserver", 236, __),
    Call("wait4", 61, 260),
    Call("waitid", 247, 95),
    Call("write", 1, 64),
    Call("writev", 20, 66),
];

/// Names of calls that exist on other architectures only, i386 above all. Profiles made for Docker list them, and leaving them out is no
/// news. Sorted.
#[rustfmt::skip]
pub static FOREIGN: &[&str] = &[
    "_llseek", "_newselect", "arm_fadvise64_64", "arm_sync_file_range", "bdflush", "break", "breakpoint", "cachectl", "cacheflush",
    "chown32", "clock_adjtime64", "clock_getres_time64", "clock_gettime64", "clock_nanosleep_time64", "clock_settime64", "fadvise64_64",
    "fchown32", "fcntl64", "fstat64", "fstatat64", "fstatfs64", "ftime", "ftruncate64", "futex_time64", "get_tls", "getegid32",
    "geteuid32", "getgid32", "getgroups32", "getresgid32", "getresuid32", "getuid32", "gtty", "idle", "io_pgetevents_time64", "ipc",
    "lchown32", "lock", "lstat64", "mmap2", "mpx", "mq_timedreceive_time64", "mq_timedsend_time64", "multiplexer", "nice", "oldfstat",
    "oldlstat", "oldolduname", "oldstat", "olduname", "pciconfig_iobase", "pciconfig_read", "pciconfig_write", "ppoll_time64", "prof",
    "profil", "pselect6_time64", "readdir", "recv", "recvmmsg_time64", "riscv_flush_icache", "riscv_hwprobe", "rt_sigtimedwait_time64",
    "rtas", "s390_guarded_storage", "s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr", "s390_sthyi",
    "sched_rr_get_interval_time64", "semtimedop_time64", "send", "sendfile64", "set_tls", "setfsgid32", "setfsuid32", "setgid32",
    "setgroups32", "setregid32", "setresgid32", "setresuid32", "setreuid32", "setuid32", "sgetmask", "sigaction", "signal", "sigpending",
    "sigprocmask", "sigreturn", "sigsuspend", "socketcall", "spu_create", "spu_run", "ssetmask", "stat64", "statfs64", "stime", "stty",
    "subpage_prot", "swapcontext", "switch_endian", "sync_file_range2", "sys_debug_setcontext", "syscall", "sysmips", "timer_gettime64",
    "timer_settime64", "timerfd", "timerfd_gettime64", "timerfd_settime64", "truncate64", "ugetrlimit", "ulimit", "umount", "usr26",
    "usr32", "utimensat_time64", "vm86", "vm86old", "waitpid",
];
