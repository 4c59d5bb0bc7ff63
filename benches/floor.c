// floor: what the benchmark's plan costs at the least. It performs the steps that `hamper plan` lists, and nothing else.
//
//     floor --steps
//     floor LAYERS LOWER SCRATCH HOME INSIDE PROJECT PROGRAM ARG...
//
// LAYERS is the directory that the names in LOWER ("top:...:bottom") start from; SCRATCH holds `u` and `w` and is used again and again;
// HOME is bound on INSIDE, PROJECT on itself. There is no profile, no image, no store, no report, and no word about what went wrong but
// the step. Everything is known beforehand; nothing is allocated; the sandbox's init shares the memory of its parent.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define CHECK(call) if ((call) < 0) fail()
enum { NOSUID = 2, NODEV = 4, SAFE = MS_NOSUID | MS_NODEV, SAFEST = SAFE | MS_NOEXEC };
enum { CLONE_TREE = 1, RECURSIVE = 0x8000, MOVE_EMPTY_PATHS = 0x44, KEYCTL_JOIN = 1, NEWCGROUP = 0x02000000 };

static const char *layers, *scratch, *inside, *source[2];
static char **program, uid_map[32], gid_map[32], overlay[8192];
static char init_stack[16384] __attribute__((aligned(16))), payload_stack[16384] __attribute__((aligned(16)));
static struct stat opened[2];
static int step, sources, binds, root, slot, ruleset, payload, word[2];
static void walk(void), fail(void);
static int resolve(const char *path, int flags, int resolve) {
    struct open_how how = {.flags = O_PATH | O_CLOEXEC | flags, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve};
    int fd = syscall(SYS_openat2, root, path, &how, sizeof how);
    CHECK(fd);
    return fd;
}

static void mount_on(const char *path, const char *type, unsigned long flags, const char *options) {
    CHECK(fchdir(resolve(path, O_DIRECTORY, RESOLVE_NO_SYMLINKS)));
    CHECK(mount(type, ".", type, flags, options));
}

static void write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(fd);
    CHECK(write(fd, text, strlen(text)));
}

// The parent.
static void join_session_keyring(void) { CHECK(syscall(SYS_keyctl, KEYCTL_JOIN, 0)); }
static void open_source(void) {
    int fd = open(source[sources], O_PATH | O_CLOEXEC);
    CHECK(fd);
    CHECK(fstat(fd, &opened[sources++]));
}

// Locked against other runs, and empty.
static void take_scratch(void) {
    char entries[256];
    int upper = openat(slot = open(scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "u", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(flock(slot, LOCK_EX | LOCK_NB));
    if (syscall(SYS_getdents64, upper, entries, sizeof entries) != 48) fail();
}

static struct sock_filter filter[256];
static unsigned length;
// x86-64: the first number of each range and what happens to it. About three hundred calls are allowed; clone3 is "not there".
enum { ALLOW, DENY, ABSENT, CLONE, IOCTL, SOCKET };
static const struct { unsigned short from, verdict; } ranges[] = {
    {0, ALLOW}, {16, IOCTL}, {17, ALLOW}, {41, SOCKET}, {42, ALLOW}, {56, CLONE}, {57, ALLOW}, {134, DENY}, {135, ALLOW}, {136, DENY},
    {137, ALLOW}, {139, DENY}, {140, ALLOW}, {153, DENY}, {157, ALLOW}, {159, DENY}, {160, ALLOW}, {161, DENY}, {162, ALLOW}, {163, DENY},
    {186, ALLOW}, {205, DENY}, {206, ALLOW}, {212, DENY}, {213, ALLOW}, {214, DENY}, {217, ALLOW}, {237, DENY}, {240, ALLOW}, {246, DENY},
    {247, ALLOW}, {248, DENY}, {251, ALLOW}, {256, DENY}, {257, ALLOW}, {272, DENY}, {273, ALLOW}, {279, DENY}, {280, ALLOW}, {298, DENY},
    {299, ALLOW}, {300, DENY}, {302, ALLOW}, {303, DENY}, {306, ALLOW}, {308, DENY}, {309, ALLOW}, {310, DENY}, {314, ALLOW}, {320, DENY},
    {322, ALLOW}, {323, DENY}, {324, ALLOW}, {335, ABSENT}, {424, ALLOW}, {425, DENY}, {434, ALLOW}, {435, ABSENT}, {436, ALLOW},
    {442, DENY}, {444, ALLOW}, {447, DENY}, {448, ALLOW}, {453, ABSENT},
};

static void add(unsigned code, unsigned k, unsigned jt, unsigned jf) { filter[length++] = (struct sock_filter){code, jt, jf, k}; }
static void load(unsigned offset) { add(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0); }
static void test(unsigned how, unsigned k, unsigned jt, unsigned jf) { add(BPF_JMP | how | BPF_K, k, jt, jf); }
static void end(unsigned action) { add(BPF_RET | BPF_K, action, 0, 0); }

// A call whose arguments decide: the tests jump over ALLOW to DENY.
static void verdict(unsigned what) {
    static const unsigned char families[] = {1, 2, 10, 16}; // UNIX, INET, INET6, NETLINK
    if (what >= CLONE) load(offsetof(struct seccomp_data, args) + (what == IOCTL) * sizeof(uint64_t));
    if (what == CLONE) test(BPF_JSET, 0x7e020000, 1, 0); // new namespaces
    if (what == IOCTL) test(BPF_JEQ, 0x5412, 2, 0), test(BPF_JEQ, 0x541c, 1, 0); // TIOCSTI, TIOCLINUX
    for (unsigned i = 0; what == SOCKET && i < COUNT(families); i++) test(BPF_JEQ, families[i], COUNT(families) - 1 - i, i + 1 == COUNT(families));
    if (what != DENY && what != ABSENT) end(SECCOMP_RET_ALLOW);
    if (what != ALLOW) end(SECCOMP_RET_ERRNO | (what == ABSENT ? ENOSYS : EPERM));
}

static void tree(unsigned low, unsigned high) {
    if (low == high) { verdict(ranges[low].verdict); return; }
    unsigned middle = (low + high + 1) / 2, at = length;
    test(BPF_JGE, ranges[middle].from, 0, 0);
    tree(low, middle - 1);
    filter[at].jt = length - at - 1;
    tree(middle, high);
}

static void compile_seccomp(void) {
    load(offsetof(struct seccomp_data, arch));
    test(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0);
    end(SECCOMP_RET_KILL_PROCESS);
    load(offsetof(struct seccomp_data, nr));
    tree(0, COUNT(ranges) - 1);
}

static void create_landlock(void) {
    CHECK(ruleset = syscall(SYS_landlock_create_ruleset, (uint64_t[]){0xffff, 0, 3}, 24, 0)); // file system, network, scopes
}

static int enter(void *unused) { (void)unused; step++; walk(); return 125; }

// The calling side only waits for word of how the payload ended; the kernel takes the sandbox down on its own.
static void clone_into(void) {
    sigprocmask(SIG_SETMASK, &(sigset_t){{~0ul}}, NULL);
    int status = 125 << 8, flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | NEWCGROUP;
    CHECK(pipe2(word, O_CLOEXEC));
    CHECK(clone(enter, init_stack + sizeof init_stack, flags | CLONE_VM | SIGCHLD, NULL));
    close(word[1]);
    read(word[0], &status, sizeof status);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

// The child, which becomes init.
static void write_id_maps(void) {
    write_file("/proc/self/setgroups", "deny");
    write_file("/proc/self/uid_map", uid_map);
    write_file("/proc/self/gid_map", gid_map);
    CHECK(prctl(PR_SET_DUMPABLE, 0));
}

static void die_with_parent(void) { CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL)); }
static void set_hostname(void) { CHECK(sethostname("floor", 5)); }
static void private_propagation(void) { CHECK(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL)); }

static void loopback_up(void) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    CHECK(ioctl(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), SIOCSIFFLAGS, &request));
}

static void mount_root(void) {
    umask(0);
    CHECK(chdir(layers));
    CHECK(mount("overlay", scratch, "overlay", SAFE, overlay));
    // The kernel's marks of a volatile overlay, which would stop the next run.
    CHECK(unlinkat(slot, "w/work/incompat/volatile/dirty", 0));
    CHECK(unlinkat(slot, "w/work/incompat/volatile", AT_REMOVEDIR) | unlinkat(slot, "w/work/incompat", AT_REMOVEDIR));
    CHECK(root = open(scratch, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

static void mount_dev(void) {
    static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"};
    static const char *const links[][2] = {{"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"},
        {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}};
    mount_on("dev", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_STRICTATIME, "mode=755,size=64k");
    CHECK(fchdir(resolve("dev", O_DIRECTORY, RESOLVE_NO_SYMLINKS)));
    for (unsigned i = 0; i < COUNT(devices); i++)
        CHECK(mknod(devices[i] + 5, S_IFREG | 0666, 0) | mount(devices[i], devices[i] + 5, NULL, MS_BIND, NULL));
    for (unsigned i = 0; i < COUNT(links); i++) CHECK(symlink(links[i][0], links[i][1]));
    CHECK(mkdir("pts", 0755) | mkdir("shm", 0755) | mkdir("mqueue", 0755));
    CHECK(mount("devpts", "pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"));
    CHECK(mount("shm", "shm", "tmpfs", SAFEST, "mode=1777,size=67108864"));
    CHECK(mount("mqueue", "mqueue", "mqueue", SAFEST, NULL));
}

static void mount_proc(void) { mount_on("proc", "proc", SAFEST, ""); }
// From here to the masks the working directory is the new procfs.
static void write_sysctls(void) {
    CHECK(fchdir(resolve("proc", O_DIRECTORY, RESOLVE_NO_SYMLINKS)));
    write_file("sys/net/ipv4/ip_unprivileged_port_start", "0");
    write_file("sys/net/ipv4/ping_group_range", "0 0");
}

static void mask(const char *name) {
    if (mount("tmpfs", name, "tmpfs", SAFEST | MS_RDONLY, "size=0k,mode=555") && errno != ENOENT) fail();
}

static void mask_proc(void) {
    static const char *const masked[] = {"acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "scsi", "timer_list", "sysrq-trigger"};
    static const char *const read_only[] = {"bus", "fs", "irq", "sys"};
    for (unsigned i = 0; i < COUNT(masked); i++)
        if (mount("/dev/null", masked[i], NULL, MS_BIND, NULL) && errno != ENOENT) mask(masked[i]);
    for (unsigned i = 0; i < COUNT(read_only); i++) {
        CHECK(mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL));
        CHECK(mount(NULL, read_only[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | SAFEST, NULL));
    }
}

static void mount_sys(void) {
    mount_on("sys", "sysfs", SAFEST | MS_RDONLY, "");
    CHECK(fchdir(resolve("sys", O_DIRECTORY, RESOLVE_NO_SYMLINKS)));
    mask("firmware"), mask("devices/virtual/powercap");
}

static void mount_cgroup(void) { CHECK(mount("cgroup2", "fs/cgroup", "cgroup2", SAFEST | MS_RDONLY, "")); }

static void bind_source(void) {
    struct stat now;
    int tree = syscall(SYS_open_tree, AT_FDCWD, source[binds], CLONE_TREE | O_CLOEXEC | RECURSIVE);
    CHECK(fstat(tree, &now));
    if (now.st_ino != opened[binds].st_ino || now.st_dev != opened[binds].st_dev) fail();
    CHECK(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | RECURSIVE, (uint64_t[4]){NOSUID | NODEV}, 32));
    CHECK(syscall(SYS_move_mount, tree, "", resolve(binds ? source[1] : inside, 0, 0), "", MOVE_EMPTY_PATHS));
    binds++;
}

static void pivot(void) {
    CHECK(fchdir(root) | syscall(SYS_pivot_root, ".", "."));
    CHECK(umount2(".", MNT_DETACH));
}

static void change_directory(void) {
    char cwd[4096];
    CHECK(chdir("/") | chdir(source[1]));
    if (!getcwd(cwd, sizeof cwd) || cwd[0] != '/') fail();
}

static void drop_capabilities(void) {
    for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; capability++) {}
    CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
    CHECK(syscall(SYS_capset, (uint32_t[]){_LINUX_CAPABILITY_VERSION_3, 0}, (uint32_t[6]){0}));
}

static void no_new_privileges(void) { CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }
static void start_payload(void) {
    int status;
    CHECK(setsid());
    CHECK(payload = clone(enter, payload_stack + sizeof payload_stack, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL));
    CHECK(dup2(word[1], 0) | syscall(SYS_close_range, 1, ~0u, 0));
    while (wait(&status) != payload) {}
    CHECK(write(0, &status, sizeof status));
    _exit(0);
}

// The payload, before execve.
static void enter_landlock(void) {
    sigprocmask(SIG_SETMASK, &(sigset_t){0}, NULL);
    umask(022);
    CHECK(setpgid(0, 0));
    struct landlock_path_beneath_attr rules[] = {{0x77bf, open("/", O_PATH)}, {0xf7bf, open("/dev", O_PATH)}};
    for (int i = 0; i < 2; i++) CHECK(syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rules[i], 0));
    CHECK(syscall(SYS_landlock_restrict_self, ruleset, 0));
}

static void close_descriptors(void) { CHECK(syscall(SYS_close_range, 3, ~0u, 0)); }
static void install_seccomp(void) { CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &(struct sock_fprog){length, filter})); }

static char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "HOSTNAME=floor", NULL};
static void execute(void) { CHECK(execve(program[0], program, environment)); }

static const struct { const char *name; void (*perform)(void); } steps[] = {
    {"join-session-keyring", join_session_keyring}, {"open-source", open_source}, {"open-source", open_source},
    {"take-scratch", take_scratch}, {"compile-seccomp", compile_seccomp}, {"create-landlock", create_landlock}, {"clone", clone_into},
    {"write-id-maps", write_id_maps}, {"die-with-parent", die_with_parent}, {"set-hostname", set_hostname}, {"loopback-up", loopback_up},
    {"private-propagation", private_propagation}, {"mount-root", mount_root}, {"mount-dev", mount_dev}, {"mount-proc", mount_proc},
    {"write-sysctls", write_sysctls}, {"mask-proc", mask_proc}, {"mount-sys", mount_sys}, {"mount-cgroup", mount_cgroup},
    {"bind", bind_source}, {"bind", bind_source}, {"pivot-root", pivot}, {"change-directory", change_directory},
    {"drop-capabilities", drop_capabilities}, {"no-new-privileges", no_new_privileges}, {"start-payload", start_payload},
    {"enter-landlock", enter_landlock}, {"close-descriptors", close_descriptors}, {"install-seccomp", install_seccomp},
    {"execute", execute},
};

static void walk(void) { for (; step < (int)COUNT(steps); step++) steps[step].perform(); }

static void fail(void) {
    dprintf(2, "floor: %s: %s\n", steps[step].name, strerror(errno));
    _exit(125);
}

int main(int argc, char **argv) {
    for (; argc == 2 && step < (int)COUNT(steps); step++) puts(steps[step].name);
    if (argc == 2) return 0;
    if (argc < 8) return 2;
    layers = argv[1], scratch = argv[3], source[0] = argv[4], inside = argv[5], source[1] = argv[6], program = argv + 7;
    snprintf(uid_map, sizeof uid_map, "0 %u 1", getuid());
    snprintf(gid_map, sizeof gid_map, "0 %u 1", getgid());
    snprintf(overlay, sizeof overlay, "userxattr,volatile,lowerdir=%s,upperdir=%s/u,workdir=%s/w", argv[2], scratch, scratch);
    walk();
    return 125;
}
