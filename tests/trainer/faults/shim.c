/* Counts the system calls that change files in one folder, and does harm at a given one.

   Built by test_checkpoint_faults.py and loaded with LD_PRELOAD. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KILL = 0, KILL_HALFWAY = 1, FULL = 2 };

static char folder[4096];
static int harm;
static long harmed_call;
static atomic_long calls;
static atomic_char watched[4096]; /* by file descriptor */

void arm(const char *path, int kind, long call) {
    strncpy(folder, path, sizeof folder - 1);
    harm = kind;
    harmed_call = call;
    calls = 0;
}

static int inside(const char *path) {
    return folder[0] && strncmp(path, folder, strlen(folder)) == 0;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause(); /* in this thread, until the signal has ended the process */
}

/* Returns whether this call is the one, or, on a full disk, comes after it. */
static int count(void) {
    long number = ++calls;
    if (harm == KILL && number == harmed_call) die();
    return harm == FULL ? number >= harmed_call : number == harmed_call;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPENING(name, path, ...)                               \
    {                                                          \
        mode_t mode = 0;                                       \
        if (flags & O_CREAT) {                                 \
            va_list rest;                                      \
            va_start(rest, flags);                             \
            mode = va_arg(rest, mode_t);                       \
            va_end(rest);                                      \
        }                                                      \
        int counted = inside(path);                            \
        if (counted && count() && harm == KILL_HALFWAY) die(); \
        int fd = REAL(name)(__VA_ARGS__, flags, mode);         \
        if (fd >= 0 && fd < 4096) watched[fd] = counted;       \
        return fd;                                             \
    }

int open(const char *path, int flags, ...) OPENING(open, path, path)
int open64(const char *path, int flags, ...) OPENING(open64, path, path)
int openat(int dir, const char *path, int flags, ...) OPENING(openat, path, dir, path)
int openat64(int dir, const char *path, int flags, ...) OPENING(openat64, path, dir, path)

#define WATCHED(fd) ((fd) >= 0 && (fd) < 4096 && watched[fd])

ssize_t write(int fd, const void *data, size_t size) {
    if (WATCHED(fd) && count()) {
        ssize_t half = REAL(write)(fd, data, size / 2);
        if (harm == KILL_HALFWAY) die();
        if (half > 0) return half; /* as a disk does that is just becoming full */
        errno = ENOSPC;
        return -1;
    }
    return REAL(write)(fd, data, size);
}

int fsync(int fd) {
    if (WATCHED(fd) && count()) {
        if (harm == KILL_HALFWAY) die();
        errno = ENOSPC; /* as file systems do that reserve space late */
        return -1;
    }
    return REAL(fsync)(fd);
}

int close(int fd) {
    if (WATCHED(fd)) {
        if (count() && harm == KILL_HALFWAY) die();
        watched[fd] = 0;
    }
    return REAL(close)(fd);
}

int rename(const char *from, const char *to) {
    if (inside(from) && count() && harm == KILL_HALFWAY) die();
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    if (inside(path) && count() && harm == KILL_HALFWAY) die();
    return REAL(unlink)(path);
}

int mkdir(const char *path, mode_t mode) {
    if (inside(path) && count() && harm == KILL_HALFWAY) die();
    return REAL(mkdir)(path, mode);
}
