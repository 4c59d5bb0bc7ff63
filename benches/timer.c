// timer: starts programs in turns and prints what each start cost.
//
//     timer ROUNDS -- PROGRAM ARG... [-- PROGRAM ARG...]...
//
// In each round every command runs once, to its end, and the first one of a round is another one each time. One line a start:
//     INDEX STATUS WALL_NS CPU_US LATE_CPU_US LATE_NS MINOR_FAULTS VOLUNTARY_SWITCHES INVOLUNTARY_SWITCHES
// WALL_NS is from the fork to the end of the process that was started. LATE is what it left behind: processes that it did not wait for
// become children of the timer, which waits for them before it goes on, so that no start disturbs the next one. CPU_US is of the process
// and of all that it waited for, faults are of everything. A STATUS of 0 is success.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
enum { MOST = 64 };

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t cpu(const struct rusage *u) {
    return (u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1000000LL + u->ru_utime.tv_usec + u->ru_stime.tv_usec;
}

// What the command left running: at most a second of it, since some programs leave a process for ever on purpose.
static int64_t late(long *faults) {
    int64_t total = 0, end = now() + 1000000000LL;
    while (now() < end) {
        struct rusage u;
        pid_t pid = wait4(-1, NULL, WNOHANG, &u);
        if (pid < 0) break;
        if (pid > 0) total += cpu(&u), *faults += u.ru_minflt;
        else nanosleep(&(struct timespec){0, 50000}, NULL);
    }
    return total;
}

static FILE *out;

static void run(int index, char **argv) {
    struct rusage u;
    int status;
    int64_t start = now();
    pid_t pid = vfork();
    if (pid == 0) {
        execv(argv[0], argv);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &status, 0, &u) != pid) {
        perror("timer");
        exit(1);
    }
    int64_t wall = now() - start, left = late(&u.ru_minflt), gone = now() - start - wall;
    fprintf(out, "%d %d %lld %lld %lld %lld %ld %ld %ld\n", index, status, (long long)wall, (long long)cpu(&u), (long long)left, (long long)gone,
           u.ru_minflt, u.ru_nvcsw, u.ru_nivcsw);
}

int main(int argc, char **argv) {
    char **command[MOST];
    int count = 0, rounds = argc > 1 ? atoi(argv[1]) : 0;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0 && i + 1 < argc && count < MOST) {
            argv[i] = NULL;
            command[count++] = &argv[i + 1];
        } else if (strcmp(argv[i], "---") == 0) {
            // The command's own "--".
            argv[i] = "--";
        }
    }
    if (rounds < 1 || count < 1) {
        fprintf(stderr, "usage: timer ROUNDS -- PROGRAM ARG... [-- PROGRAM ARG...]...\n");
        return 2;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    // Results go to standard output, which the commands must not write to.
    int results = dup(1), null = open("/dev/null", O_RDWR);
    fcntl(results, F_SETFD, FD_CLOEXEC);
    dup2(null, 0);
    dup2(null, 1);
    out = fdopen(results, "w");
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < count; i++)
            run((i + round) % count, command[(i + round) % count]);
    return fflush(out) != 0;
}
