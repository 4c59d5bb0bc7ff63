// Prints the addresses, as offsets from where the program is mapped, of every 16 bytes of code that a program and what it starts execute:
// each process step by step until it executes another program. Run as root where what is traced gives privileges up.
//
//     executed PROGRAM ARGUMENT…

#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define LARGEST (64u << 20)
static unsigned char seen[LARGEST >> 4];

static void fail(const char *what) {
	perror(what);
	exit(1);
}

// Where the first mapping of the program begins; its length in *length.
static unsigned long mapped(pid_t pid, const char *program, unsigned long *length) {
	char path[64], line[PATH_MAX + 128];
	unsigned long first = 0, last = 0, begin, end;
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *maps = fopen(path, "r");
	if (!maps) fail(path);
	while (fgets(line, sizeof line, maps)) {
		if (!strstr(line, program) || sscanf(line, "%lx-%lx", &begin, &end) != 2) continue;
		if (!first) first = begin;
		last = end;
	}
	fclose(maps);
	*length = last - first;
	return first;
}

int main(int argc, char **argv) {
	char program[PATH_MAX];
	if (argc < 2 || !realpath(argv[1], program)) fail("usage: executed PROGRAM ARGUMENT...");
	pid_t first = fork();
	if (first == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		execv(program, argv + 1);
		fail(program);
	}
	int status, code = 1, started = 0;
	unsigned long base = 0, length = 0;
	for (pid_t pid; (pid = waitpid(-1, &status, __WALL)) > 0;) {
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (pid == first) code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			continue;
		}
		int stop = WSTOPSIG(status), event = status >> 16, give = 0;
		if (!started) {
			base = mapped(pid, program, &length);
			long options = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
			if (!base || length > LARGEST || ptrace(PTRACE_SETOPTIONS, pid, 0, options)) fail("ptrace");
			started = 1;
		} else if (event == PTRACE_EVENT_EXEC) {
			ptrace(PTRACE_DETACH, pid, 0, 0);
			continue;
		} else if (stop == SIGTRAP) {
			struct user_regs_struct registers;
			if (!ptrace(PTRACE_GETREGS, pid, 0, &registers) && registers.rip - base < length) seen[(registers.rip - base) >> 4] = 1;
		} else if (stop != SIGSTOP) {
			give = stop;
		}
		ptrace(PTRACE_SINGLESTEP, pid, 0, give);
	}
	for (unsigned long index = 0; index < length >> 4; index++)
		if (seen[index]) printf("%lx\n", index << 4);
	return code;
}
