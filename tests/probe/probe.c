/*
 * The payload's eyes: a static program that tries things from inside a
 * sandbox and says what came of it. One verb a line of --help below; several
 * verbs may follow each other, separated by "--".
 *
 * Every attempt prints "VERB: ok ..." or "VERB: ERRNO-NAME ..."; the exit
 * status is 0 where all came to an end, whatever it was, and 2 for a wrong
 * command line. The tests decide what is right.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static const char *verb = "probe";

static const char *name_of(int error)
{
	const char *name = strerrorname_np(error);
	return name ? name : "E?";
}

/* "VERB OBJECT: ok" or "VERB OBJECT: EPERM", by errno where result < 0. */
static int tell(const char *object, long result)
{
	if (result < 0)
		printf("%s %s: %s\n", verb, object, name_of(errno));
	else
		printf("%s %s: ok\n", verb, object);
	fflush(stdout);
	return result < 0 ? -1 : 0;
}

static void die(const char *why)
{
	fprintf(stderr, "probe: %s: %s\n", verb, why);
	exit(2);
}

static long number(const char *text)
{
	char *end;
	long value = strtol(text, &end, 0);
	if (*end || end == text)
		die("not a number");
	return value;
}

/* --- what this process is ---------------------------------------------- */

static void show_file(const char *path)
{
	char buffer[65536];
	ssize_t got;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		tell(path, -1);
		return;
	}
	fflush(stdout);
	char last = '\n';
	while ((got = read(fd, buffer, sizeof buffer)) > 0) {
		if (write(1, buffer, got) != got)
			exit(3);
		last = buffer[got - 1];
	}
	if (last != '\n')
		putchar('\n');
	if (got < 0)
		tell(path, -1);
	close(fd);
}

static void fds(void)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	if (!directory) {
		tell("/proc/self/fd", -1);
		return;
	}
	while ((entry = readdir(directory))) {
		char path[300], target[4096];
		ssize_t length;
		if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(directory))
			continue;
		snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
		length = readlink(path, target, sizeof target - 1);
		target[length < 0 ? 0 : length] = 0;
		printf("fd %s %s\n", entry->d_name, target);
	}
	closedir(directory);
}

static void ids(void)
{
	gid_t groups[256];
	uid_t r, e, s;
	gid_t gr, ge, gs;
	int count = getgroups(256, groups);
	getresuid(&r, &e, &s);
	getresgid(&gr, &ge, &gs);
	printf("uid %u %u %u\ngid %u %u %u\ngroups", r, e, s, gr, ge, gs);
	for (int i = 0; i < count; i++)
		printf(" %u", groups[i]);
	printf("\n");
}

/* Layers that can still be stacked: 16 in all, so 16 - N are there already. */
static void landlock_layers(void)
{
	int layers = 0;
	int abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (abi < 0) {
		tell("landlock", -1);
		return;
	}
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	for (;;) {
		struct landlock_ruleset_attr attr = {.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_BLOCK};
		int ruleset = syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
		if (ruleset < 0) {
			tell("landlock", -1);
			return;
		}
		long result = syscall(SYS_landlock_restrict_self, ruleset, 0);
		close(ruleset);
		if (result < 0 && errno == E2BIG)
			break;
		if (result < 0 || ++layers > 64) {
			tell("landlock", -1);
			return;
		}
	}
	printf("landlock layers: %d\nlandlock abi: %d\n", 16 - layers, abi);
}

/* --- system calls -------------------------------------------------------- */

static void child_died(const char *object, int status)
{
	if (WIFSIGNALED(status))
		printf("%s %s: signal %d\n", verb, object, WTERMSIG(status));
	fflush(stdout);
}

/* Tries in a child, since a filter may kill. */
static void in_child(const char *object, void (*attempt)(void *), void *argument)
{
	int status;
	fflush(stdout);
	pid_t child = fork();
	if (child < 0) {
		tell(object, -1);
		return;
	}
	if (!child) {
		attempt(argument);
		fflush(stdout);
		_exit(0);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	child_died(object, status);
}

struct call {
	long number, argument[6];
	const char *object;
};

static void raw_call(void *argument)
{
	struct call *call = argument;
	long *a = call->argument;
	long result = syscall(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (result < 0)
		tell(call->object, result);
	else
		printf("%s %s: ok %ld\n", verb, call->object, result);
}

static void try_syscall(int argc, char **argv)
{
	struct call call = {0};
	if (argc < 1 || argc > 7)
		die("a number and up to six arguments");
	call.number = number(argv[0]);
	call.object = argv[0];
	for (int i = 1; i < argc; i++)
		call.argument[i - 1] = number(argv[i]);
	in_child(call.object, raw_call, &call);
}

#ifdef __x86_64__
static void call_int80(void *ignored)
{
	long result;
	(void)ignored;
	/* getpid of i386 is 20 */
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
	if (result < 0) {
		errno = -result;
		tell("int80", -1);
	} else {
		printf("%s int80: ok %ld\n", verb, result);
	}
}

static void call_x32(void *ignored)
{
	long result;
	(void)ignored;
	/* getpid of x32 */
	__asm__ volatile("syscall" : "=a"(result) : "a"(0x40000000L | 39) : "memory", "rcx", "r11");
	if (result < 0) {
		errno = -result;
		tell("x32", -1);
	} else {
		printf("%s x32: ok %ld\n", verb, result);
	}
}
#endif

static void foreign(void)
{
#ifdef __x86_64__
	in_child("int80", call_int80, NULL);
	in_child("x32", call_x32, NULL);
#endif
}

/*
 * Which numbers below LIMIT get past the filter. Each is called in a child
 * with six arguments of -1, with which (nearly) no call does anything; what
 * would end, stop or hold the child is told apart by how the child ends.
 * "refused" is EPERM or ENOSYS, and a death by SIGSYS.
 */
struct sweep {
	long number;
};

static void sweep_call(void *argument)
{
	struct sweep *sweep = argument;
	alarm(1);
	long result = syscall(sweep->number, -1L, -1L, -1L, -1L, -1L, -1L);
	_exit(result < 0 && errno == ENOSYS ? 38 : result < 0 && errno == EPERM ? 39 : 40);
}

static void sweep(long limit)
{
	for (long number = 0; number < limit; number++) {
		int status;
		struct sweep one = {number};
		/* fork, vfork, clone, execve, exit: fork alone makes copies of us */
		fflush(stdout);
		pid_t child = fork();
		if (child < 0) {
			tell("fork", -1);
			return;
		}
		if (!child)
			sweep_call(&one);
		while (waitpid(child, &status, 0) < 0 && errno == EINTR)
			;
		const char *what = "reached";
		if (WIFEXITED(status) && WEXITSTATUS(status) == 38)
			what = "ENOSYS";
		else if (WIFEXITED(status) && WEXITSTATUS(status) == 39)
			what = "EPERM";
		else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
			what = "SIGSYS";
		printf("call %ld %s\n", number, what);
	}
	fflush(stdout);
}

static void nested_userns(void *ignored)
{
	(void)ignored;
	tell("unshare", unshare(CLONE_NEWUSER));
}

static void nested_clone(void *ignored)
{
	(void)ignored;
	long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	if (!child)
		_exit(0);
	tell("clone", child);
}

static void nested_clone3(void *ignored)
{
	(void)ignored;
	uint64_t arguments[8] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
	long child = syscall(SYS_clone3, arguments, sizeof arguments);
	if (!child)
		_exit(0);
	tell("clone3", child);
}

/* --- files ---------------------------------------------------------------- */

static void write_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND | O_NOFOLLOW, 0644);
	if (tell(path, fd) == 0) {
		if (write(fd, "probe\n", 6) != 6)
			tell(path, -1);
		close(fd);
	}
}

/* Opens with these flags, and changes the mode by the descriptor. */
static void change_mode_by_descriptor(mode_t mode, const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);
	if (fd < 0) {
		tell(path, -1);
		return;
	}
	tell(path, fchmod(fd, mode));
	close(fd);
}

/* A filter of its own whose calls of chmod(2) are answered by whoever has its descriptor. */
static void listener(long flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fchmodat, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = 4, .filter = code};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	tell("filter", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) < 0 ? -1 : 0);
}

/* What needs no descriptor that may write: the kernel asks for the owner alone. */
static void change_stdin(void)
{
	tell("fchmod", fchmod(0, 0666));
	tell("fchown", fchown(0, getuid(), getgid()));
	tell("fsetxattr", fsetxattr(0, "user.probe", "x", 1, 0));
	tell("fremovexattr", fremovexattr(0, "user.probe"));
	tell("futimens", futimens(0, NULL));
}

static void read_attributes(const char *path)
{
	char list[4096];
	tell("getxattr", getxattr(path, "user.probe", list, sizeof list) < 0 ? -1 : 0);
	tell("lgetxattr", lgetxattr(path, "user.probe", list, sizeof list) < 0 ? -1 : 0);
	tell("listxattr", listxattr(path, list, sizeof list) < 0 ? -1 : 0);
	tell("llistxattr", llistxattr(path, list, sizeof list) < 0 ? -1 : 0);
}

static void fill(const char *path, long bytes)
{
	static char block[65536];
	long written = 0;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0) {
		tell(path, -1);
		return;
	}
	while (written < bytes) {
		ssize_t got = write(fd, block, sizeof block);
		if (got < 0) {
			printf("fill %s: %s after %ld\n", path, name_of(errno), written);
			close(fd);
			unlink(path);
			return;
		}
		written += got;
	}
	printf("fill %s: ok %ld\n", path, written);
	close(fd);
	unlink(path);
}

static void stat_line(const char *path)
{
	struct stat status;
	if (lstat(path, &status) < 0) {
		tell(path, -1);
		return;
	}
	printf("stat %s: %o %u:%u size %lld links %lu mtime %lld rdev %u:%u\n", path, status.st_mode, status.st_uid, status.st_gid,
	       (long long)status.st_size, (unsigned long)status.st_nlink, (long long)status.st_mtim.tv_sec, major(status.st_rdev), minor(status.st_rdev));
}

static void list(const char *path)
{
	struct dirent *entry;
	DIR *directory = opendir(path);
	if (!directory) {
		tell(path, -1);
		return;
	}
	while ((entry = readdir(directory)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			printf("entry %s\n", entry->d_name);
	closedir(directory);
}

static void statfs_line(const char *path)
{
	struct statvfs status;
	if (statvfs(path, &status) < 0) {
		tell(path, -1);
		return;
	}
	printf("statvfs %s: bytes %llu%s%s%s%s\n", path, (unsigned long long)status.f_blocks * status.f_frsize,
	       status.f_flag & ST_RDONLY ? " ro" : "", status.f_flag & ST_NOSUID ? " nosuid" : "",
	       status.f_flag & ST_NODEV ? " nodev" : "", status.f_flag & ST_NOEXEC ? " noexec" : "");
}

/* --- sockets -------------------------------------------------------------- */

static void family(const char *name)
{
	static const struct {
		const char *name;
		int family, type, protocol;
	} known[] = {
		{"unix", AF_UNIX, SOCK_STREAM, 0}, {"inet", AF_INET, SOCK_STREAM, 0}, {"inet6", AF_INET6, SOCK_STREAM, 0},
		{"udp", AF_INET, SOCK_DGRAM, 0}, {"raw", AF_INET, SOCK_RAW, 1}, {"packet", AF_PACKET, SOCK_RAW, 0},
		{"netlink-route", AF_NETLINK, SOCK_RAW, 0}, {"netlink-netfilter", AF_NETLINK, SOCK_RAW, 12},
		{"netlink-uevent", AF_NETLINK, SOCK_RAW, 15}, {"netlink-audit", AF_NETLINK, SOCK_RAW, 9},
		{"netlink-crypto", AF_NETLINK, SOCK_RAW, 21}, {"netlink-diag", AF_NETLINK, SOCK_RAW, 4},
		{"alg", AF_ALG, SOCK_SEQPACKET, 0}, {"vsock", AF_VSOCK, SOCK_STREAM, 0}, {"bluetooth", AF_BLUETOOTH, SOCK_RAW, 1},
		{"key", AF_KEY, SOCK_RAW, 2}, {"tipc", AF_TIPC, SOCK_SEQPACKET, 0}, {"can", AF_CAN, SOCK_RAW, 1},
		{"xdp", 44, SOCK_RAW, 0}, {"rds", AF_RDS, SOCK_SEQPACKET, 0}, {"qrtr", 42, SOCK_DGRAM, 0},
	};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (!strcmp(known[i].name, name)) {
			int fd = socket(known[i].family, known[i].type, known[i].protocol);
			tell(name, fd);
			if (fd >= 0)
				close(fd);
			return;
		}
	die("unknown family");
}

static void connect_to(const char *address, int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
		die("an IPv4 address");
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval limit = {.tv_sec = 2};
	if (fd < 0) {
		tell(address, -1);
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	tell(address, connect(fd, (struct sockaddr *)&to, sizeof to));
	close(fd);
}

static void connect_unix(const char *name)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	socklen_t length = offsetof(struct sockaddr_un, sun_path) + strlen(name);
	if (strlen(name) >= sizeof to.sun_path)
		die("name too long");
	memcpy(to.sun_path, name, strlen(name));
	if (*name == '@')
		to.sun_path[0] = 0;
	else
		length++;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		tell(name, -1);
		return;
	}
	tell(name, connect(fd, (struct sockaddr *)&to, length));
	close(fd);
}

/* A pair of sockets, and then one of them connected to a path instead. */
static void pair(const char *kind, const char *name)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fds[2], type = !strcmp(kind, "stream") ? SOCK_STREAM : !strcmp(kind, "seqpacket") ? SOCK_SEQPACKET : SOCK_DGRAM;
	if (strlen(name) >= sizeof to.sun_path)
		die("name too long");
	strcpy(to.sun_path, name);
	if (tell(kind, socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds)))
		return;
	tell(name, connect(fds[0], (struct sockaddr *)&to, sizeof to));
	tell("send", sendto(fds[0], "x", 1, MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof to));
	close(fds[0]);
	close(fds[1]);
}

/* Standard input, which is a socket: away from its peer, and then to ADDRESS PORT, where one byte is sent. */
static void reconnect_to(const char *address, int port)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
		die("an IPv4 address");
	tell("none", connect(0, &none, sizeof none));
	tell(address, connect(0, (struct sockaddr *)&to, sizeof to));
	tell("send", send(0, "x", 1, MSG_NOSIGNAL));
}

/* The same with a path. */
static void reconnect_unix(const char *name)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	if (strlen(name) >= sizeof to.sun_path)
		die("name too long");
	strcpy(to.sun_path, name);
	tell(name, connect(0, (struct sockaddr *)&to, sizeof to));
	tell("send", send(0, "x", 1, MSG_NOSIGNAL));
}

static void bind_to(int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	long result = bind(fd, (struct sockaddr *)&to, sizeof to);
	if (!result)
		result = listen(fd, 1);
	tell("port", result);
	close(fd);
}

/* --- a listing of the tree: the lines of tests/images/walk.py --no-dir-mtime -- */

static void escaped(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		unsigned char c = text[i];
		if (c > 0x20 && c < 0x7f && c != '\\')
			putchar(c);
		else
			printf("\\x%02x", c);
	}
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static char **paths;
static size_t path_count, path_room;

static void collect(const char *path, dev_t device, char **skip, int skips)
{
	struct stat status;
	for (int i = 0; i < skips; i++)
		if (!strcmp(path, skip[i]))
			return;
	if (lstat(path, &status) < 0)
		return;
	if (S_ISDIR(status.st_mode) && status.st_dev != device)
		return;
	if (path_count == path_room) {
		path_room = path_room ? 2 * path_room : 4096;
		paths = realloc(paths, path_room * sizeof *paths);
	}
	paths[path_count++] = strdup(path);
	if (!S_ISDIR(status.st_mode))
		return;
	DIR *directory = opendir(path);
	struct dirent *entry;
	if (!directory) {
		fprintf(stderr, "probe: cannot read %s\n", path);
		return;
	}
	while ((entry = readdir(directory))) {
		char *next;
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (asprintf(&next, "%s/%s", path, entry->d_name) < 0)
			exit(3);
		collect(next, device, skip, skips);
		free(next);
	}
	closedir(directory);
}

/* SHA-256, FIPS 180-4 */
static uint32_t sha_state[8];

static uint32_t turn(uint32_t word, int bits)
{
	return word >> bits | word << (32 - bits);
}

static void sha_block(const unsigned char *block)
{
	static uint32_t constant[64];
	uint32_t word[64], v[8];
	if (!constant[0]) {
		/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
		int prime = 1;
		for (int i = 0; i < 64; i++) {
			int composite;
			do {
				prime++;
				composite = 0;
				for (int d = 2; d * d <= prime; d++)
					composite |= prime % d == 0;
			} while (composite);
			/* root = floor(cbrt(prime) * 2^32) */
			unsigned __int128 low = 0, high = (unsigned __int128)8 << 32;
			while (low < high) {
				unsigned __int128 middle = (low + high + 1) / 2;
				if (middle * middle * middle <= (unsigned __int128)prime << 96)
					low = middle;
				else
					high = middle - 1;
			}
			constant[i] = (uint32_t)low;
		}
	}
	for (int i = 0; i < 16; i++)
		word[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = word[i - 15], b = word[i - 2];
		word[i] = word[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) + word[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
	}
	memcpy(v, sha_state, sizeof v);
	for (int i = 0; i < 64; i++) {
		uint32_t one = v[7] + (turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + constant[i] + word[i];
		uint32_t two = (turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
		memmove(v + 1, v, 7 * sizeof *v);
		v[4] += one;
		v[0] = one + two;
	}
	for (int i = 0; i < 8; i++)
		sha_state[i] += v[i];
}

static void content_sum(const char *path)
{
	static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	static unsigned char buffer[1 << 16];
	uint64_t total = 0;
	size_t held = 0;
	ssize_t got;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) {
		printf(" unreadable");
		return;
	}
	memcpy(sha_state, start, sizeof start);
	while ((got = read(fd, buffer + held, sizeof buffer - held)) > 0) {
		size_t from = 0;
		held += got;
		total += got;
		for (; held - from >= 64; from += 64)
			sha_block(buffer + from);
		memmove(buffer, buffer + from, held - from);
		held -= from;
	}
	close(fd);
	buffer[held++] = 0x80;
	memset(buffer + held, 0, 128);
	size_t blocks = held + 8 > 64 ? 2 : 1;
	for (int i = 0; i < 8; i++)
		buffer[blocks * 64 - 1 - i] = total * 8 >> 8 * i;
	for (size_t i = 0; i < blocks; i++)
		sha_block(buffer + 64 * i);
	printf(" sha256=");
	for (int i = 0; i < 8; i++)
		printf("%08x", sha_state[i]);
}

struct inode {
	dev_t device;
	ino_t inode;
	const char *first;
	int names;
};

static void xattr_list(const char *path)
{
	static char names[65536], value[65536];
	char *list[256];
	int count = 0;
	ssize_t length = llistxattr(path, names, sizeof names);
	for (char *name = names; name < names + (length > 0 ? length : 0) && count < 256; name += strlen(name) + 1)
		if (strncmp(name, "user.overlay.", 13) && strncmp(name, "trusted.", 8) && (strncmp(name, "security.", 9) || !strcmp(name, "security.capability")))
			list[count++] = name;
	qsort(list, count, sizeof *list, compare);
	for (int i = 0; i < count; i++) {
		ssize_t size = lgetxattr(path, list[i], value, sizeof value);
		printf(" xattr:");
		escaped(list[i], strlen(list[i]));
		putchar('=');
		for (ssize_t j = 0; j < size; j++)
			printf("%02x", (unsigned char)value[j]);
	}
}

static void walk(int skips, char **skip)
{
	struct stat top, status;
	if (chdir("/") || lstat(".", &top))
		die("cannot enter the root");
	collect(".", top.st_dev, skip, skips);
	qsort(paths, path_count, sizeof *paths, compare);
	struct inode *seen = calloc(path_count + 1, sizeof *seen);
	size_t seen_count = 0;
	for (size_t i = 0; i < path_count; i++)
		if (!lstat(paths[i], &status) && !S_ISDIR(status.st_mode) && status.st_nlink > 1) {
			size_t j = 0;
			while (j < seen_count && (seen[j].device != status.st_dev || seen[j].inode != status.st_ino))
				j++;
			if (j == seen_count)
				seen[seen_count++] = (struct inode){status.st_dev, status.st_ino, paths[i], 0};
			seen[j].names++;
		}
	for (size_t i = 0; i < path_count; i++) {
		const char *path = paths[i], *first = NULL;
		char kind = '?';
		if (lstat(path, &status))
			continue;
		switch (status.st_mode & S_IFMT) {
		case S_IFDIR: kind = 'd'; break;
		case S_IFREG: kind = 'f'; break;
		case S_IFLNK: kind = 'l'; break;
		case S_IFIFO: kind = 'p'; break;
		case S_IFSOCK: kind = 's'; break;
		default: continue;
		}
		for (size_t j = 0; kind != 'd' && status.st_nlink > 1 && j < seen_count && !first; j++)
			if (seen[j].device == status.st_dev && seen[j].inode == status.st_ino && seen[j].names > 1)
				first = seen[j].first;
		escaped(path, strlen(path));
		printf(" %c %04o %u:%u", kind, status.st_mode & 07777, status.st_uid, status.st_gid);
		if (kind != 'd') {
			long long time = status.st_mtim.tv_sec * 1000000000LL + status.st_mtim.tv_nsec;
			long long size = time < 0 ? -time : time;
			printf(" mtime=%s%lld.%09lld", time < 0 ? "-" : "", size / 1000000000, size % 1000000000);
		}
		if (kind == 'f') {
			printf(" size=%lld", (long long)status.st_size);
			content_sum(path);
		}
		if (kind == 'l') {
			static char target[65536];
			ssize_t length = readlink(path, target, sizeof target);
			printf(" target=");
			escaped(target, length < 0 ? 0 : length);
		}
		if (first) {
			printf(" hard=");
			escaped(first, strlen(first));
		}
		xattr_list(path);
		putchar('\n');
	}
}

/* --- processes ------------------------------------------------------------ */

static void on_signal(int signal)
{
	char text[32];
	int length = snprintf(text, sizeof text, "got %d\n", signal);
	if (write(1, text, length) != length)
		_exit(3);
	_exit(40 + signal);
}

/* Says that it is there, and then ends with 40 + N on signal N. */
static void await_signal(void)
{
	for (int signal = 1; signal < 32; signal++)
		if (signal != SIGCHLD && signal != SIGCONT && signal != SIGURG && signal != SIGWINCH)
			(void)!sigaction(signal, &(struct sigaction){.sa_handler = on_signal}, NULL);
	printf("ready\n");
	fflush(stdout);
	for (;;)
		pause();
}

/* Processes that end as soon as each has a child to go on, in sessions of their own; for ten seconds at most. */
static void chains(long wanted)
{
	time_t end = time(NULL) + 10;
	while (wanted-- > 0)
		if (!fork()) {
			for (int fd = 0; fd < 3; fd++)
				close(fd);
			while (time(NULL) < end) {
				setsid();
				pid_t next = fork();
				if (next > 0)
					_exit(0);
			}
			_exit(0);
		}
}

/*
 * A chain in which each is the parent of the next: it grows at one end, by the cheapest clone there is, for as long as the one LEAD
 * generations before the end lives, and goes on when that dies. Whoever ends one generation after the other never comes to the end of it.
 */
static void snake(long lead, long seconds)
{
	enum { ROOM = 1 << 16 };
	static volatile struct { int pids[ROOM]; long depth; } *shared;
	time_t end = time(NULL) + seconds;

	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("no memory");
	printf("ready\n");
	fflush(stdout);
	if (fork())
		for (;;)
			pause();
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	setsid();
	for (;;) {
		long depth = shared->depth;
		/* All of them: who resumes behind a child that shared its stack is not to go on. */
		if (time(NULL) > end)
			kill(0, SIGKILL);
		if (depth >= lead && !kill(shared->pids[(depth - lead) % ROOM], 0)) {
			usleep(100);
			continue;
		}
		shared->pids[depth % ROOM] = getpid();
		shared->depth = depth + 1;
		long child = syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
		if (child < 0) {
			shared->depth = depth;
			usleep(1000);
		}
		while (child > 0)
			pause();
	}
}

static void read_memory(const char *path)
{
	char byte;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (tell(path, fd))
		return;
	verb = "read";
	tell(path, pread(fd, &byte, 1, 4096));
	close(fd);
}

static const char usage[] =
	"probe VERB [ARGUMENT...] [-- VERB ...]\n"
	"  cat FILE... | stat PATH... | ls DIR... | readlink PATH... | statvfs PATH...\n"
	"  fds | ids | env | status | cwd | hostname | interfaces | landlock | winsize\n"
	"  syscall N [ARG...] | foreign | sweep LIMIT | userns | family NAME... | tiocsti\n"
	"  open PATH... | write PATH... | rename FROM TO | exchange A B | unlink PATH | rmdir PATH | link FROM TO | symlink TARGET PATH\n"
	"  truncate PATH | chmod MODE PATH | chown UID GID PATH | mknod PATH KIND MAJOR MINOR | mount SOURCE TARGET TYPE FLAGS\n"
	"  umount PATH | chroot PATH | mkdir PATH | setuid UID | fill PATH BYTES | exec PATH [ARG...]\n"
	"  stdin | attributes PATH | snake LEAD SECONDS MARK | listener FLAGS | fchmod MODE PATH FLAGS | pair stream|seqpacket|dgram NAME | chains N | daemon FILE\n"
	"  connect ADDRESS PORT | reconnect ADDRESS PORT | unix NAME | reunix PATH | bind PORT | ptrace PID | kill PID SIGNAL | queue PID SIGNAL | memory PATH\n"
	"  setrlimit RESOURCE VALUE | getrlimit RESOURCE | umask | session\n"
	"  signal | sleep SECONDS | hold MEBIBYTES | exit CODE | raise SIGNAL | orphan | spawn N | walk [EXCLUDE...]\n";

extern char **environ;

static void run(int argc, char **argv)
{
	verb = argv[0];
	argc--;
	argv++;
#define IS(text) !strcmp(verb, text)
#define NEED(count) do { if (argc < (count)) die("arguments are missing"); } while (0)
	if (IS("cat")) {
		for (int i = 0; i < argc; i++)
			show_file(argv[i]);
	} else if (IS("stat")) {
		for (int i = 0; i < argc; i++)
			stat_line(argv[i]);
	} else if (IS("statvfs")) {
		for (int i = 0; i < argc; i++)
			statfs_line(argv[i]);
	} else if (IS("ls")) {
		for (int i = 0; i < argc; i++)
			list(argv[i]);
	} else if (IS("readlink")) {
		for (int i = 0; i < argc; i++) {
			char target[4096];
			ssize_t length = readlink(argv[i], target, sizeof target - 1);
			if (length < 0) {
				tell(argv[i], -1);
			} else {
				target[length] = 0;
				printf("readlink %s: ok %s\n", argv[i], target);
			}
		}
	} else if (IS("fds")) {
		fds();
	} else if (IS("ids")) {
		ids();
	} else if (IS("env")) {
		for (char **entry = environ; *entry; entry++)
			printf("%s\n", *entry);
	} else if (IS("status")) {
		show_file("/proc/self/status");
	} else if (IS("cwd")) {
		char path[4096];
		printf("cwd %s\n", getcwd(path, sizeof path) ? path : name_of(errno));
	} else if (IS("hostname")) {
		char name[256] = "";
		gethostname(name, sizeof name - 1);
		printf("hostname %s\n", name);
	} else if (IS("interfaces")) {
		struct if_nameindex *all = if_nameindex();
		for (struct if_nameindex *one = all; one && one->if_index; one++)
			printf("interface %s\n", one->if_name);
	} else if (IS("landlock")) {
		landlock_layers();
	} else if (IS("syscall")) {
		NEED(1);
		try_syscall(argc, argv);
	} else if (IS("foreign")) {
		foreign();
	} else if (IS("sweep")) {
		NEED(1);
		sweep(number(argv[0]));
	} else if (IS("userns")) {
		in_child("unshare", nested_userns, NULL);
		in_child("clone", nested_clone, NULL);
		in_child("clone3", nested_clone3, NULL);
	} else if (IS("family")) {
		for (int i = 0; i < argc; i++)
			family(argv[i]);
	} else if (IS("tiocsti")) {
		tell("TIOCSTI", ioctl(0, TIOCSTI, "x"));
		/* upper half of the request: the kernel looks at 32 bits only */
		tell("TIOCSTI-high", syscall(SYS_ioctl, 0, 0x100000000L | TIOCSTI, "x"));
		tell("TIOCLINUX", ioctl(0, TIOCLINUX, "\x02"));
	} else if (IS("open")) {
		for (int i = 0; i < argc; i++) {
			int fd = open(argv[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
			tell(argv[i], fd);
			if (fd >= 0)
				close(fd);
		}
	} else if (IS("write")) {
		for (int i = 0; i < argc; i++)
			write_file(argv[i]);
	} else if (IS("rename")) {
		NEED(2);
		tell(argv[0], rename(argv[0], argv[1]));
	} else if (IS("exchange")) {
		NEED(2);
		tell(argv[0], renameat2(AT_FDCWD, argv[0], AT_FDCWD, argv[1], 2));
	} else if (IS("unlink")) {
		NEED(1);
		tell(argv[0], unlink(argv[0]));
	} else if (IS("rmdir")) {
		NEED(1);
		tell(argv[0], rmdir(argv[0]));
	} else if (IS("mkdir")) {
		NEED(1);
		tell(argv[0], mkdir(argv[0], 0755));
	} else if (IS("link")) {
		NEED(2);
		tell(argv[0], link(argv[0], argv[1]));
	} else if (IS("symlink")) {
		NEED(2);
		tell(argv[1], symlink(argv[0], argv[1]));
	} else if (IS("truncate")) {
		NEED(1);
		tell(argv[0], truncate(argv[0], 0));
	} else if (IS("chmod")) {
		NEED(2);
		tell(argv[1], chmod(argv[1], strtol(argv[0], NULL, 8)));
	} else if (IS("fchmod")) {
		NEED(3);
		change_mode_by_descriptor(strtol(argv[0], NULL, 8), argv[1], number(argv[2]));
	} else if (IS("pair")) {
		NEED(2);
		pair(argv[0], argv[1]);
	} else if (IS("stdin")) {
		change_stdin();
	} else if (IS("attributes")) {
		NEED(1);
		read_attributes(argv[0]);
	} else if (IS("snake")) {
		/* The mark is there to be found by. */
		NEED(3);
		snake(number(argv[0]), number(argv[1]));
	} else if (IS("listener")) {
		NEED(1);
		listener(number(argv[0]));
	} else if (IS("chains")) {
		NEED(1);
		chains(number(argv[0]));
	} else if (IS("daemon")) {
		/* ignores what can be ignored, in a session of its own; its number is in the file */
		NEED(1);
		if (!fork()) {
			setsid();
			if (fork())
				_exit(0);
			for (int signal = 1; signal < 32; signal++)
				(void)!sigaction(signal, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
			FILE *file = fopen(argv[0], "w");
			if (file) {
				fprintf(file, "%d\n", getpid());
				fclose(file);
			}
			for (int fd = 0; fd < 3; fd++)
				close(fd);
			for (;;)
				pause();
		}
	} else if (IS("chown")) {
		NEED(3);
		tell(argv[2], lchown(argv[2], number(argv[0]), number(argv[1])));
	} else if (IS("mknod")) {
		NEED(4);
		mode_t kind = *argv[1] == 'b' ? S_IFBLK : *argv[1] == 'p' ? S_IFIFO : S_IFCHR;
		tell(argv[0], mknod(argv[0], kind | 0666, makedev(number(argv[2]), number(argv[3]))));
	} else if (IS("mount")) {
		NEED(4);
		tell(argv[1], mount(argv[0], argv[1], argv[2], number(argv[3]), NULL));
	} else if (IS("umount")) {
		NEED(1);
		tell(argv[0], umount2(argv[0], MNT_DETACH));
	} else if (IS("chroot")) {
		NEED(1);
		tell(argv[0], chroot(argv[0]));
	} else if (IS("setuid")) {
		NEED(1);
		tell(argv[0], setuid(number(argv[0])));
	} else if (IS("fill")) {
		NEED(2);
		fill(argv[0], number(argv[1]));
	} else if (IS("exec")) {
		NEED(1);
		fflush(stdout);
		execv(argv[0], argv);
		tell(argv[0], -1);
	} else if (IS("connect")) {
		NEED(2);
		connect_to(argv[0], number(argv[1]));
	} else if (IS("unix")) {
		NEED(1);
		connect_unix(argv[0]);
	} else if (IS("reconnect")) {
		NEED(2);
		reconnect_to(argv[0], number(argv[1]));
	} else if (IS("reunix")) {
		NEED(1);
		reconnect_unix(argv[0]);
	} else if (IS("bind")) {
		NEED(1);
		bind_to(number(argv[0]));
	} else if (IS("ptrace")) {
		NEED(1);
		tell(argv[0], ptrace(PTRACE_SEIZE, number(argv[0]), 0, 0));
	} else if (IS("kill")) {
		NEED(2);
		tell(argv[0], kill(number(argv[0]), number(argv[1])));
	} else if (IS("queue")) {
		NEED(2);
		/* The sender's number that init would see of a process outside. */
		siginfo_t info = {.si_code = SI_QUEUE};
		tell(argv[0], syscall(SYS_rt_sigqueueinfo, number(argv[0]), number(argv[1]), &info));
	} else if (IS("memory")) {
		NEED(1);
		read_memory(argv[0]);
	} else if (IS("setrlimit")) {
		NEED(2);
		struct rlimit limit = {number(argv[1]), number(argv[1])};
		tell(argv[0], setrlimit(number(argv[0]), &limit));
	} else if (IS("getrlimit")) {
		NEED(1);
		struct rlimit limit;
		getrlimit(number(argv[0]), &limit);
		printf("rlimit %s %llu %llu\n", argv[0], (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
	} else if (IS("umask")) {
		printf("umask %04o\n", umask(0));
	} else if (IS("session")) {
		printf("pid %d parent %d session %d group %d terminal %d\n", getpid(), getppid(), getsid(0), getpgrp(), tcgetpgrp(0));
	} else if (IS("winsize")) {
		struct winsize size = {0};
		ioctl(0, TIOCGWINSZ, &size);
		printf("winsize %d %d\n", size.ws_row, size.ws_col);
	} else if (IS("signal")) {
		await_signal();
	} else if (IS("sleep")) {
		NEED(1);
		fflush(stdout);
		struct timespec time = {.tv_sec = number(argv[0])};
		while (nanosleep(&time, &time) && errno == EINTR)
			;
	} else if (IS("exit")) {
		NEED(1);
		exit(number(argv[0]));
	} else if (IS("raise")) {
		NEED(1);
		fflush(stdout);
		raise(number(argv[0]));
	} else if (IS("hold")) {
		NEED(1);
		/* memory that takes the kernel its time to free */
		size_t size = (size_t)number(argv[0]) << 20;
		char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			die("no memory");
		madvise(memory, size, MADV_NOHUGEPAGE);
		memset(memory, 1, size);
		for (;;)
			pause();
	} else if (IS("orphan")) {
		/* a process in a session of its own that outlives its parent */
		if (!fork()) {
			setsid();
			if (!fork()) {
				close(0);
				close(1);
				close(2);
				for (;;)
					pause();
			}
			_exit(0);
		}
		while (wait(NULL) > 0)
			;
		tell("orphan", 0);
	} else if (IS("spawn")) {
		NEED(1);
		long wanted = number(argv[0]), made = 0;
		for (; made < wanted; made++) {
			pid_t child = fork();
			if (child < 0)
				break;
			if (!child)
				for (;;)
					pause();
		}
		printf("spawn: %ld\n", made);
	} else if (IS("walk")) {
		walk(argc, argv);
	} else {
		fputs(usage, stderr);
		exit(2);
	}
	fflush(stdout);
}

/*
 * Outside a sandbox: probe measure FILE COMMAND... runs the command, and says
 * in FILE how it ended, its peak memory, and how many processes it has left
 * behind after at most ten seconds. Those are ended then.
 */
static int measure(int argc, char **argv)
{
	struct rusage usage = {0};
	struct rlimit core = {0, 0};
	int status = 0, left = 0;
	pid_t child, got;
	verb = "measure";
	if (argc < 2)
		die("a file and a command");
	FILE *file = fopen(argv[0], "w");
	if (!file || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) || setrlimit(RLIMIT_CORE, &core))
		die("cannot begin");
	child = fork();
	if (!child) {
		fclose(file);
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	while ((got = wait4(-1, &status, 0, &usage)) != child)
		if (got < 0 && errno != EINTR)
			die("cannot wait");
	fprintf(file, "status %d\nmaxrss %ld\n", WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status), usage.ru_maxrss);
	for (int tenth = 0; tenth < 100; tenth++) {
		while ((got = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		if (got < 0 && errno == ECHILD)
			break;
		usleep(100000);
	}
	while ((got = waitpid(-1, NULL, WNOHANG)) == 0) {
		char path[64], line[64];
		DIR *proc = opendir("/proc");
		struct dirent *entry;
		long parent;
		while (proc && (entry = readdir(proc))) {
			snprintf(path, sizeof path, "/proc/%.20s/stat", entry->d_name);
			FILE *stat = fopen(path, "r");
			if (!stat)
				continue;
			if (fscanf(stat, "%*d (%60[^)]) %*c %ld", line, &parent) == 2 && parent == getpid()) {
				fprintf(file, "left %s\n", line);
				left++;
				kill(atoi(entry->d_name), SIGKILL);
			}
			fclose(stat);
		}
		if (proc)
			closedir(proc);
		usleep(100000);
	}
	fprintf(file, "lefts %d\n", left);
	fclose(file);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/*
 * Outside a sandbox: probe nouserns COMMAND... runs the command under a filter
 * as services and containers have it: no user namespaces, no unshare, no clone3.
 */
static int without_userns(char **argv)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 6, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unshare, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
	};
	struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
	verb = "nouserns";
	if (!*argv || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		die("cannot begin");
	execvp(*argv, argv);
	return 127;
}

/*
 * Outside a sandbox: probe listened COMMAND... runs the command under a filter
 * that somebody listens to, as some containers have it; there is one at most.
 */
static int listened(char **argv)
{
	struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog program = {.len = 1, .filter = code};
	verb = "listened";
	if (!*argv || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("cannot begin");
	int fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	/* The listener outlives hamper, which closes what it does not know. */
	if (fd < 0)
		die("no listener");
	pid_t child = fork();
	int status;
	if (!child) {
		close(fd);
		execvp(*argv, argv);
		_exit(127);
	}
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

int main(int argc, char **argv)
{
	int from = 1;
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	if (argc < 2) {
		fputs(usage, stderr);
		return 2;
	}
	if (!strcmp(argv[1], "measure"))
		return measure(argc - 2, argv + 2);
	if (!strcmp(argv[1], "nouserns"))
		return without_userns(argv + 2);
	if (!strcmp(argv[1], "listened"))
		return listened(argv + 2);
	while (from < argc) {
		int to = from;
		while (to < argc && strcmp(argv[to], "--"))
			to++;
		char **one = calloc(to - from + 1, sizeof *one);
		memcpy(one, argv + from, (to - from) * sizeof *one);
		if (to > from)
			run(to - from, one);
		from = to + 1;
	}
	return 0;
}
