/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of an open device, of threads and of processes: lives CASE [DESCRIPTOR]. */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "toy.h"

extern char **environ;

static int opened(void) {
    int fd = open(NODE, O_RDWR);

    CHECK(fd >= 0);
    return fd;
}

/* Descriptors of this process. */
static int descriptors(void) {
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;

    CHECK(folder != NULL);
    while (readdir(folder))
        count++;
    (void)closedir(folder);
    return count;
}

static void end_well(pid_t child) {
    int status;

    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void flags(void) {
    int fd = open(NODE, O_RDWR), other;
    char byte;

    CHECK(fd == 3 && fcntl(fd, F_GETFD) == 0);
    other = open(NODE, O_RDONLY | O_CLOEXEC);
    CHECK(other == 4 && fcntl(other, F_GETFD) == FD_CLOEXEC);
    CHECK_FAILS(read(fd, &byte, 1), EINVAL);
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == ENODEV);
    CHECK_FAILS(open(NODE, O_RDWR | O_DIRECTORY), ENOTDIR);
    CHECK_FAILS(open(NODE "/", O_RDWR), ENOTDIR);
    CHECK_FAILS(open(NODE, O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    CHECK_FAILS(open("/dev/toy1", O_RDWR), ENOENT);
    CHECK(open("/dev/../dev/./toy0", O_RDWR) >= 0);
    CHECK(open("/tmp/../dev//toy0", O_RDWR) >= 0);
    CHECK(creat(NODE, 0600) >= 0);
    CHECK(openat(open("/dev", O_RDONLY | O_DIRECTORY), "toy0", O_RDWR) >= 0);
    CHECK(openat(open("/", O_RDONLY | O_DIRECTORY), "dev/toy0", O_RDWR) >= 0);
    CHECK(openat(open("/dev", O_RDONLY | O_DIRECTORY), "null", O_RDWR) >= 0);
    CHECK_FAILS(ioctl(fd, 0x4299, 0), ENOTTY);
    CHECK_FAILS(ioctl(fd, ADD_ONE, 8), EFAULT);
    CHECK_FAILS(ioctl(99, COUNT, 0), EBADF);
    CHECK_FAILS(ioctl(open("/dev/null", O_RDWR), COUNT, 0), ENOTTY);
    errno = 77;
    CHECK(ioctl(fd, COUNT, 0) == 0 && open(NODE, O_RDWR) > 0 && errno == 77);
}

static void *add_thousand(void *value) {
    int fd = opened();

    for (int i = 0; i < 1000; i++)
        CHECK(ioctl(fd, ADD_ONE, value) == 0);
    CHECK(ioctl(fd, TID, 0) == syscall(SYS_gettid));
    CHECK(ioctl(fd, TGID, 0) == getpid());
    (void)close(fd);
    return NULL;
}

static void threads(void) {
    unsigned long values[2] = {0};
    pthread_t made[2];
    int before = descriptors();

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 2; i++)
            CHECK(pthread_create(&made[i], NULL, add_thousand, &values[i]) == 0);
        for (int i = 0; i < 2; i++)
            CHECK(pthread_join(made[i], NULL) == 0);
    }
    CHECK(values[0] == 3000 && values[1] == 3000);
    CHECK(descriptors() == before);
}

static void forks(void) {
    int fd = opened(), before, in_child;
    pid_t child;

    CHECK(ioctl(fd, TGID, 0) == getpid());
    before = descriptors();
    child = fork();
    if (child == 0) {
        CHECK(descriptors() == before - 1); /* without the parent's connection */
        CHECK(ioctl(fd, TGID, 0) == getpid());
        in_child = open(NODE, O_RDWR);
        CHECK(in_child >= 0 && ioctl(in_child, TGID, 0) == getpid());
        _exit(0);
    }
    end_well(child);
    CHECK(ioctl(fd, TGID, 0) == getpid());
    child = (pid_t)syscall(SYS_fork);
    if (child == 0) {
        CHECK(ioctl(fd, TGID, 0) == syscall(SYS_getpid));
        _exit(0);
    }
    end_well(child);
    CHECK(ioctl(fd, TGID, 0) == getpid() && descriptors() == before);
}

static void *fork_often(void *unused) {
    for (int i = 0; i < 50; i++) {
        int fd = opened();
        pid_t child;

        CHECK(ioctl(fd, COUNT, 0) == 0);
        child = fork();
        if (child == 0) {
            CHECK(ioctl(fd, TGID, 0) == getpid() && ioctl(fd, COUNT, 0) == 0);
            _exit(0);
        }
        end_well(child);
        CHECK(close(fd) == 0);
    }
    return unused;
}

/* Threads that fork at the same time, each many times, and new ones after them. */
static void storm(void) {
    pthread_t made[4];
    int before = descriptors();

    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&made[i], NULL, fork_often, NULL) == 0);
        for (int i = 0; i < 4; i++)
            CHECK(pthread_join(made[i], NULL) == 0);
    }
    CHECK(descriptors() == before);
}

static void vforks(void) {
    int fd = opened(), before;

    CHECK(ioctl(fd, COUNT, 0) == 0);
    before = descriptors();
    for (int i = 0; i < 10; i++) {
        pid_t child = vfork();

        if (child == 0) {
            CHECK(ioctl(fd, TGID, 0) == getpid());
            _exit(0);
        }
        end_well(child);
        CHECK(ioctl(fd, TGID, 0) == getpid());
    }
    CHECK(descriptors() == before);
}

/* Run this program again, with a descriptor that it inherits. */
static void run_again(const char *program, int fd) {
    char number[16];
    char *arguments[] = {(char *)program, "inherited", number, NULL};

    (void)snprintf(number, sizeof(number), "%d", fd);
    CHECK(execve(program, arguments, environ) == 0);
}

static void spawns(const char *program) {
    int fd = opened();
    char number[16];
    char *arguments[] = {(char *)program, "inherited", number, NULL};
    pid_t child;

    (void)snprintf(number, sizeof(number), "%d", fd);
    CHECK(ioctl(fd, COUNT, 0) == 0);
    CHECK(posix_spawn(&child, program, NULL, NULL, arguments, environ) == 0);
    end_well(child);
    child = vfork();
    if (child == 0) {
        (void)execve(program, arguments, environ);
        _exit(1);
    }
    end_well(child);
    CHECK(ioctl(fd, TGID, 0) == getpid());
}

static void inherited(int fd) {
    CHECK(ioctl(fd, TGID, 0) == getpid());
    CHECK(ioctl(fd, COUNT, 0) == 0);
}

static void copies(void) {
    int fd = opened(), copy = dup(fd), high = fcntl(fd, F_DUPFD, 100);

    CHECK(dup2(fd, 50) == 50);
    CHECK(close(fd) == 0);
    CHECK_FAILS(ioctl(fd, COUNT, 0), EBADF);
    CHECK(ioctl(copy, COUNT, 0) == 0 && ioctl(high, COUNT, 0) == 0 && ioctl(50, COUNT, 0) == 0);
    CHECK(close(copy) == 0 && close(high) == 0);
    CHECK(ioctl(50, COUNT, 0) == 0);
}

static void opens(void) {
    int before, fd = opened();

    CHECK(close(fd) == 0);
    before = descriptors();
    for (int i = 0; i < 2000; i++) {
        fd = opened();
        CHECK(close(fd) == 0);
    }
    CHECK(descriptors() == before);
}

static void closes_all(void) {
    int fd = opened();
    pid_t child;

    CHECK(ioctl(fd, COUNT, 0) == 0);
    closefrom(3);
    fd = opened();
    CHECK(fd == 3 && ioctl(fd, COUNT, 0) == 0);
    for (int other = 4; other < 1024; other++) /* others in the places of the connection */
        (void)dup2(0, other);
    CHECK(ioctl(fd, COUNT, 0) == 0);
    CHECK(fcntl(500, F_GETFD) >= 0);
    child = fork();
    if (child == 0)
        _exit(fcntl(500, F_GETFD) < 0);
    end_well(child);
}

static void few_descriptors(void) {
    struct rlimit limit = {20, 20};
    int fd = opened();

    CHECK(close(fd) == 0 && setrlimit(RLIMIT_NOFILE, &limit) == 0);
    fd = opened();
    closefrom(fd + 1); /* the connection, whose number is too high now */
    CHECK(ioctl(fd, COUNT, 0) == 0);
    while (dup(0) >= 0)
        continue;
    CHECK_FAILS(open(NODE, O_RDWR), EMFILE);
    CHECK(ioctl(fd, COUNT, 0) == 0);
    CHECK(access("/dev/null", R_OK) == 0);
}

static volatile int in_handler;
static int handler_fd;

static void handle(int signal) {
    (void)signal;
    CHECK(ioctl(handler_fd, COUNT, 0) == 0);
    in_handler++;
}

static void timer(void) {
    struct sigaction action = {.sa_handler = handle};
    struct itimerval every = {{0, 1000}, {0, 1000}};
    int done = 0;

    handler_fd = opened();
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &every, NULL) == 0);
    for (; done < 20000; done++)
        CHECK(ioctl(handler_fd, COUNT, 0) == 0);
    every = (struct itimerval){0};
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
    CHECK(in_handler > 0);
    printf("%d\n", done + in_handler);
}

static void *outlive(void *value) {
    char name[64], text[512] = "";
    int fd = opened();

    (void)snprintf(name, sizeof(name), "/proc/self/task/%d/stat", getpid());
    while (!strstr(text, ") Z ")) {
        FILE *file = fopen(name, "r");

        CHECK(file && fgets(text, sizeof(text), file));
        (void)fclose(file);
    }
    CHECK(ioctl(fd, ADD_ONE, value) == 0);
    CHECK(close(fd) == 0 && (fd = opened()) >= 0);
    CHECK(ioctl(fd, ADD_ONE, value) == 0 && *(unsigned long *)value == 2);
    CHECK_FAILS(ioctl(fd, ADD_ONE, 8), EFAULT);
    _exit(0);
}

/* The first thread ends, and another goes on. */
static void outlived(void) {
    static unsigned long value;
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, outlive, &value) == 0);
    pthread_exit(NULL);
}

static void *wait_in_ioctl(void *fd) {
    CHECK(ioctl(*(int *)fd, WAIT, 0) == 0);
    return "done";
}

/* A thread that is cancelled in a command has done it. */
static void cancelled(void) {
    int fd = opened();
    pthread_t thread;
    void *result;

    CHECK(pthread_create(&thread, NULL, wait_in_ioctl, &fd) == 0);
    printf("waits\n");
    (void)fflush(stdout);
    CHECK(getchar() == 'c');
    CHECK(pthread_cancel(thread) == 0);
    printf("cancelled\n");
    (void)fflush(stdout);
    CHECK(pthread_join(thread, &result) == 0 && result != PTHREAD_CANCELED);
    CHECK(ioctl(fd, COUNT, 0) == 0);
}

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"flags", flags},   {"threads", threads}, {"forks", forks},           {"vforks", vforks},
        {"copies", copies}, {"opens", opens},     {"closes_all", closes_all}, {"few_descriptors", few_descriptors},
        {"timer", timer},   {"storm", storm},     {"cancelled", cancelled},   {"outlived", outlived}};
    int fd;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (strcmp(arguments[1], cases[i].name) == 0)
            cases[i].run();
    if (count > 2)
        inherited(atoi(arguments[2]));
    if (strcmp(arguments[1], "spawns") == 0)
        spawns(arguments[0]);
    if (strcmp(arguments[1], "executes") == 0)
        run_again(arguments[0], opened());
    if (strcmp(arguments[1], "waits") == 0) {
        fd = opened();
        (void)wait_in_ioctl(&fd);
    }
    return 0;
}
