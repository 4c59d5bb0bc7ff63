//! The filter of a payload without namespaces: it runs as the caller, among everything that is the caller's.
//!
//! Landlock decides which files can be opened. It does not look at mode, owner, times and attributes, at UNIX sockets that have a path, at
//! System V IPC, nor, before ABI 6, at signals. Each of these would be a way out for a process with the caller's ids, so each is shut here,
//! whatever list the filter starts from.
//!
//! # References
//! landlock(7), "Current limitations" of Documentation/userspace-api/landlock.rst of the kernel

use super::emit::{Node, Op, Word};
use super::policy::{self, Group};
use super::{ASK, Draft, SameUser, errno};

const fn shut(about: &'static str, calls: &'static [&'static str]) -> Group {
    Group { name: "", about, calls }
}

/// Refused with every argument.
#[rustfmt::skip]
const REFUSED: &[Group] = &[
    shut(
        "owner and inode flags, and older calls for times: the kernel asks for the owner alone, and so for all of the caller's files; by a \
         descriptor too, since standard input may be a file that can merely be read",
        &[
            "chown", "fchown", "fchownat", "file_setattr", "futimesat", "lchown", "utime", "utimes",
        ],
    ),
    shut(
        "System V IPC and message queues, which know no path: without an IPC namespace they are the host's",
        &[
            "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd",
            "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmdt", "shmget",
        ],
    ),
    shut(
        "reaching into other processes; Landlock refuses it as well, and this is the second proof",
        &[
            "kcmp", "migrate_pages", "move_pages", "perf_event_open", "pidfd_getfd", "process_madvise", "process_mrelease",
            "process_vm_readv", "process_vm_writev", "ptrace",
        ],
    ),
    shut(
        "watching files: asks for no right that Landlock knows",
        &["fanotify_init", "fanotify_mark", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch"],
    ),
    shut("files by handle, past every directory", &["name_to_handle_at", "open_by_handle_at"]),
    shut("the caller's own keyring, which is found by user id", &["add_key", "keyctl", "request_key"]),
    shut("opens files and sockets past the filter", &["io_uring_enter", "io_uring_register", "io_uring_setup"]),
];

/// Extended attributes, ACLs among them, as though the file system had none, which programs take quietly. By path Landlock lets everybody
/// read them; to change them the kernel asks for the owner alone, by path and by descriptor.
#[rustfmt::skip]
const WITHOUT_ATTRIBUTES: &[&str] = &[
    "file_getattr", "fremovexattr", "fsetxattr", "getxattr", "getxattrat", "lgetxattr", "listxattr", "listxattrat", "llistxattr",
    "lremovexattr", "lsetxattr", "removexattr", "removexattrat", "setxattr", "setxattrat",
];

/// Modes and times: asked of the parent, which does it in the payload's place where the payload may write.
const ASKED: &[&str] = &["chmod", "fchmod", "fchmodat", "fchmodat2", "utimensat"];

/// These take a process id, and are let through for the calling process alone, which is 0: argument by call.
const OWN_PROCESS: [(&str, u8); 5] =
    [("prlimit64", 0), ("sched_setaffinity", 0), ("sched_setattr", 0), ("sched_setparam", 0), ("sched_setscheduler", 0)];

/// Which kind of id the second argument is: `PRIO_USER` of setpriority(2) and `IOPRIO_WHO_USER` of ioprio_set(2) reach all of a user.
const OWN_GROUP: [(&str, u32); 2] = [("setpriority", 2), ("ioprio_set", 3)];

/// What else depends on arguments.
const BY_ARGUMENT: &[&str] = &["ioctl", "kill", "open", "openat", "openat2", "seccomp", "socket", "socketpair"];

/// Whether the filter narrows a call, so that letting it through with all arguments would undo that.
pub fn narrows(name: &str) -> bool {
    let by_process = OWN_PROCESS.iter().map(|(call, _)| call).chain(OWN_GROUP.iter().map(|(call, _)| call));
    REFUSED.iter().any(|group| group.calls.contains(&name))
        || BY_ARGUMENT.contains(&name)
        || by_process.into_iter().any(|call| *call == name)
        || ASKED.contains(&name)
        || WITHOUT_ATTRIBUTES.contains(&name)
}

/// Takes away from a draft, and never gives: what an argument decides leads on to where the call led before.
pub fn narrow(draft: &mut Draft, same_user: SameUser) {
    for name in REFUSED.iter().flat_map(|group| group.calls) {
        // What seems absent goes on seeming so.
        if draft.leaf(name) != Some(draft.missing) {
            draft.set(name, draft.refuse);
        }
    }
    let not_supported = draft.graph.verdict(errno(libc::EOPNOTSUPP as u32));
    for name in WITHOUT_ATTRIBUTES {
        narrow_call(draft, name, |draft, before| if before == draft.missing { before } else { not_supported });
    }
    for name in ASKED {
        narrow_call(draft, name, asked);
    }
    sockets(draft, same_user.network);
    files(draft);
    processes(draft);
    filters(draft);
}

/// Every socket that can be connected by path, name or address: the session bus alone is a way out.
fn sockets(draft: &mut Draft, network: bool) {
    let no_family = draft.graph.verdict(errno(libc::EAFNOSUPPORT as u32));
    if network {
        let no_protocol = draft.graph.verdict(errno(libc::EPROTONOSUPPORT as u32));
        narrow_call(draft, "socket", |draft, before| {
            let route = draft.graph.test(Word::low(2), Op::Equal, libc::NETLINK_ROUTE as u32, before, no_protocol);
            let families = [(libc::AF_INET, before), (libc::AF_INET6, before), (libc::AF_NETLINK, route)];
            draft.graph.spans(Word::low(0), &families.map(|(family, node)| (family as u32, family as u32, node)), no_family)
        });
    } else {
        draft.set("socket", no_family);
    }
    // A pair of datagram sockets can be connected anew, to any path; a stream and a sequence of packets cannot. SOCK_RAW is a datagram.
    narrow_call(draft, "socketpair", |draft, before| {
        const TYPE: u32 = 0xF;
        let packets = draft.graph.masked(Word::low(1), TYPE, Op::Equal, libc::SOCK_SEQPACKET as u32, before, draft.refuse);
        let stream = draft.graph.masked(Word::low(1), TYPE, Op::Equal, libc::SOCK_STREAM as u32, before, packets);
        draft.graph.test(Word::low(0), Op::Equal, libc::AF_UNIX as u32, stream, no_family)
    });
}

/// `FS_IOC_SETFLAGS` and its 32-bit form, `FS_IOC_SETVERSION`, `FS_IOC_FSSETXATTR`, `FS_IOC_ENABLE_VERITY`,
/// `FS_IOC_SET_ENCRYPTION_POLICY`: all ask for the owner, and not for a descriptor that may write (ioctl_iflags(2), linux/fs.h).
const ATTRIBUTE_IOCTLS: [u32; 6] = [0x4008_6602, 0x4004_6602, 0x4008_7602, 0x401C_5820, 0x4080_6685, 0x800C_6613];

/// The type byte of btrfs's ioctls, which make and remove subvolumes by a descriptor of a directory; and those with the same byte that
/// every file system has: `FICLONE`, `FICLONERANGE`, `FIDEDUPERANGE` (ioctl_ficlone(2)).
const BTRFS_IOCTL: u32 = 0x9400;
const CLONE_IOCTLS: [u32; 3] = [0x4004_9409, 0x4020_940D, 0xC018_9436];

fn files(draft: &mut Draft) {
    // Access mode 3 asks Landlock for nothing, and gives a descriptor for fchmod(2) and ioctl(2) of any file of the caller (open(2)).
    const ACCESS_MODE: u32 = 3;
    for (name, flags) in [("open", 1), ("openat", 2)] {
        narrow_call(draft, name, |draft, before| {
            draft.graph.masked(Word::low(flags), ACCESS_MODE, Op::Equal, ACCESS_MODE, draft.refuse, before)
        });
    }
    // It has its flags in memory; callers take openat(2) on ENOSYS.
    draft.set("openat2", draft.missing);
    narrow_call(draft, "ioctl", |draft, before| {
        let clone = draft.graph.one_of(Word::low(1), &CLONE_IOCTLS, before, draft.refuse);
        let other = draft.graph.masked(Word::low(1), 0xFF00, Op::Equal, BTRFS_IOCTL, clone, before);
        let terminal = draft.graph.one_of(Word::low(1), &policy::REFUSED_IOCTLS, draft.refuse, other);
        draft.graph.one_of(Word::low(1), &ATTRIBUTE_IOCTLS, draft.refuse, terminal)
    });
}

fn processes(draft: &mut Draft) {
    for (name, argument) in OWN_PROCESS {
        narrow_call(draft, name, |draft, before| draft.graph.test(Word::low(argument), Op::Equal, 0, before, draft.refuse));
    }
    for (name, user) in OWN_GROUP {
        narrow_call(draft, name, |draft, before| {
            let own = draft.graph.test(Word::low(1), Op::Equal, 0, before, draft.refuse);
            draft.graph.test(Word::low(0), Op::Equal, user, draft.refuse, own)
        });
    }
    // -1 means every process of the caller.
    narrow_call(draft, "kill", |draft, before| draft.graph.test(Word::low(0), Op::Equal, u32::MAX, draft.refuse, before));
}

/// A filter of the payload's own can only refuse more, but for one that has a listener: that answers, and may answer that a call goes on,
/// what our filter hands over. While our listener is open the kernel allows no second; when the parent is gone, it would.
fn filters(draft: &mut Draft) {
    /// `SECCOMP_FILTER_FLAG_NEW_LISTENER`; the kernel takes the low word of the flags.
    const NEW_LISTENER: u32 = 1 << 3;
    narrow_call(draft, "seccomp", |draft, before| draft.graph.test(Word::low(1), Op::AnyBit, NEW_LISTENER, draft.refuse, before));
}

/// Who is ended with its parent stays so.
pub fn keep_death_signal(draft: &mut Draft) {
    narrow_call(draft, "prctl", |draft, before| {
        draft.graph.test(Word::low(0), Op::Equal, libc::PR_SET_PDEATHSIG as u32, draft.refuse, before)
    });
}

/// A call that was let through is asked for; one that was not stays refused, and one that an argument decides is refused.
fn asked(draft: &mut Draft, before: Node) -> Node {
    if before == draft.allow {
        draft.graph.verdict(ASK)
    } else if before == draft.missing {
        before
    } else {
        draft.refuse
    }
}

/// Puts a decision before where a call led until now.
fn narrow_call(draft: &mut Draft, name: &str, decide: impl FnOnce(&mut Draft, Node) -> Node) {
    if let Some(before) = draft.leaf(name) {
        let node = decide(draft, before);
        draft.set(name, node);
    }
}
