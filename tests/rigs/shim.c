/* A faulty disk and a clock that can be stepped, put before the C library of a program under test (LD_PRELOAD).
 *
 * Rust's std reaches files through these functions of the C library, so the release binary needs no change. Calls are
 * counted over all threads, one count for each function, and only those on files below SHIM_FOLDER.
 *
 * SHIM_CALL, SHIM_AT: the function and which of its calls. SHIM_FOREVER: that one and all after it.
 * SHIM_FAULT: EIO or ENOSPC (the call fails and does nothing), KILL (the process dies before the call), TORN (half is
 * written, then the process dies), BAD (no reading of the SHIM_AT-th 4096 bytes of the file `db`, as of a bad place on the
 * disk), DELAY (SHIM_DELAY_US pass first), COUNT (nothing happens).
 * SHIM_WAIT: nothing is counted before this file is there.
 * SHIM_LOG: each call that was hit, as a line: count, function, time in seconds, path.
 * SHIM_CLOCK: a file of 8 bytes, by how many nanoseconds CLOCK_REALTIME is wrong; it may change at any time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum kind { NONE, FAIL, KILL, TORN, BAD, DELAY, COUNT };

static const char *folder, *call, *log_path, *wait_path;
static long at;
static int forever, error_number, delay_us;
static enum kind kind;
static atomic_long counts[16];
static _Atomic int64_t *clock_offset;
static const char *const NAMES[] = {"pwrite64", "write", "sync_file_range", "fsync", "fdatasync", "rename", "unlink",
                                    "ftruncate64", "pread64", "read", "mkdir", "open64", NULL};

static void open_clock(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void *page = mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED) clock_offset = page;
}

__attribute__((constructor)) static void begin(void) {
    const char *fault = getenv("SHIM_FAULT"), *path = getenv("SHIM_CLOCK");
    if (path) open_clock(path);
    folder = getenv("SHIM_FOLDER");
    if (!folder || !fault) return;
    call = getenv("SHIM_CALL");
    log_path = getenv("SHIM_LOG");
    wait_path = getenv("SHIM_WAIT");
    at = atol(getenv("SHIM_AT") ? getenv("SHIM_AT") : "1");
    forever = getenv("SHIM_FOREVER") != NULL;
    delay_us = atoi(getenv("SHIM_DELAY_US") ? getenv("SHIM_DELAY_US") : "0");
    error_number = !strcmp(fault, "ENOSPC") ? ENOSPC : EIO;
    kind = !strcmp(fault, "KILL") ? KILL : !strcmp(fault, "TORN") ? TORN : !strcmp(fault, "DELAY") ? DELAY
         : !strcmp(fault, "BAD") ? BAD : !strcmp(fault, "COUNT") ? COUNT : FAIL;
}

static void note(const char *name, long count, const char *path) {
    if (!log_path) return;
    struct timespec now;
    char line[PATH_MAX + 100];
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    int length = snprintf(line, sizeof line, "%ld %s %ld.%09ld %s\n", count, name, (long)now.tv_sec, now.tv_nsec, path);
    int fd = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd >= 0) {
        syscall(SYS_write, fd, line, length);
        syscall(SYS_close, fd);
    }
}

/* What is to happen to this call of `name` on `path`. */
static enum kind meet(const char *name, const char *path) {
    if (kind == NONE || strncmp(path, folder, strlen(folder)) || (call && strcmp(call, name))) return NONE;
    if (wait_path && access(wait_path, F_OK)) return NONE;
    int which = 0;
    while (NAMES[which] && strcmp(NAMES[which], name)) which++;
    long count = atomic_fetch_add(&counts[which], 1) + 1;
    if (kind == BAD) return BAD;
    if (kind != COUNT && count != at && !(forever && count > at)) return NONE;
    if (kind != DELAY) note(name, count, path);
    if (kind == KILL) kill(getpid(), SIGKILL);
    if (kind == DELAY) {
        struct timespec pause = {delay_us / 1000000, delay_us % 1000000 * 1000L};
        nanosleep(&pause, NULL);
    }
    return kind;
}

static int path_of(int fd, char path[PATH_MAX]) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length >= 0;
}

static enum kind meet_file(const char *name, int fd) {
    char path[PATH_MAX];
    return kind == NONE || !path_of(fd, path) ? NONE : meet(name, path);
}

/* As `meet_file`, for a reading of so many bytes from there. */
static enum kind meet_reading(const char *name, int fd, size_t size, off64_t offset) {
    char path[PATH_MAX];
    if (kind != BAD) return meet_file(name, fd);
    size_t length = path_of(fd, path) ? strlen(path) : 0;
    off64_t bad = (at - 1) * 4096;
    if (length < 3 || strcmp(path + length - 3, "/db") || offset >= bad + 4096 || offset + (off64_t)size <= bad) return NONE;
    note(name, at, path);
    return FAIL;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_OR(what, next) do { if ((what) == FAIL) { errno = error_number; return -1; } return next; } while (0)

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    enum kind what = meet_file("pwrite64", fd);
    if (what == TORN) {
        NEXT(pwrite64)(fd, data, size / 2, offset);
        kill(getpid(), SIGKILL);
    }
    FAIL_OR(what, NEXT(pwrite64)(fd, data, size, offset));
}

ssize_t write(int fd, const void *data, size_t size) {
    enum kind what = meet_file("write", fd);
    if (what == TORN) {
        NEXT(write)(fd, data, size / 2);
        kill(getpid(), SIGKILL);
    }
    FAIL_OR(what, NEXT(write)(fd, data, size));
}

int sync_file_range(int fd, off64_t offset, off64_t size, unsigned flags) {
    FAIL_OR(meet_file("sync_file_range", fd), NEXT(sync_file_range)(fd, offset, size, flags));
}

int fsync(int fd) { FAIL_OR(meet_file("fsync", fd), NEXT(fsync)(fd)); }
int fdatasync(int fd) { FAIL_OR(meet_file("fdatasync", fd), NEXT(fdatasync)(fd)); }
int ftruncate64(int fd, off64_t size) { FAIL_OR(meet_file("ftruncate64", fd), NEXT(ftruncate64)(fd, size)); }
int rename(const char *from, const char *to) { FAIL_OR(meet("rename", from), NEXT(rename)(from, to)); }
int unlink(const char *path) { FAIL_OR(meet("unlink", path), NEXT(unlink)(path)); }
int mkdir(const char *path, mode_t mode) { FAIL_OR(meet("mkdir", path), NEXT(mkdir)(path, mode)); }

ssize_t pread64(int fd, void *data, size_t size, off64_t offset) {
    FAIL_OR(meet_reading("pread64", fd, size, offset), NEXT(pread64)(fd, data, size, offset));
}

ssize_t read(int fd, void *data, size_t size) {
    off64_t offset = kind == BAD ? lseek64(fd, 0, SEEK_CUR) : 0;
    FAIL_OR(meet_reading("read", fd, size, offset < 0 ? 0 : offset), NEXT(read)(fd, data, size));
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    FAIL_OR(meet("open64", path), NEXT(open64)(path, flags, mode));
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int done = NEXT(clock_gettime)(which, now);
    if (done || which != CLOCK_REALTIME || !clock_offset) return done;
    int64_t at_ns = now->tv_sec * 1000000000LL + now->tv_nsec + atomic_load(clock_offset);
    now->tv_sec = at_ns / 1000000000LL;
    now->tv_nsec = at_ns % 1000000000LL;
    return 0;
}
