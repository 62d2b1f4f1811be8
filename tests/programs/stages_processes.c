/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Who may use an open file, and what becomes of it: descriptors, children, other programs, threads, signals. */
#include "helper.h"
#include "user.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROCESSES = 2, THREADS = 4, COMMANDS_OF_A_THREAD = 25, COMMANDS_UNDER_SIGNALS = 200, SIGNALS = 20, KILLED = 2 };

static const char *asked(int fd) {
    struct ihsm_device_info info;
    return named(device_info(fd, &info));
}

void stage_dup(void) {
    int fd = ready_node();
    int copies[] = {dup(fd), fcntl(fd, F_DUPFD_CLOEXEC, 100), dup3(fd, 200, O_CLOEXEC)};
    for (size_t i = 0; i < COUNT(copies); i++)
        say("copy %zu: %s", i, asked(copies[i]));
    close(fd);
    say("the first one closed: %s", asked(fd));
    say("its copy: %s", asked(copies[0]));
    int other = ready_node();
    say("over a copy: %s", named(result_of(dup2(other, copies[1])) == copies[1] ? 0 : -errno));
    say("which answers: %s", asked(copies[1]));
    close(other);
    for (size_t i = 0; i < COUNT(copies); i++)
        close(copies[i]);
}

static void use_in_child(void *inherited) {
    int *fd = inherited;
    struct ihsm_reset_device reset = {.hdr = {.szioctldata = sizeof reset}, .abort_type = IHSM_ABORT_TYPE_L2_RESET};
    say("the parent's file in a child: %s", asked(*fd));
    say("an unknown number there: %s", named(call(*fd, IHSM_IOCTL_GENERIC, NULL)));
    say("a reset: %s", named(call(*fd, IHSM_IOCTL_RESET, &reset)));
    close(*fd);
    int own = ready_node();
    say("a file of the child's own: %s", asked(own));
    close(own);
}

void stage_fork(void) {
    int fd = ready_node();
    show_end("the child", in_child(use_in_child, &fd));
    say("the parent's file after that: %s", asked(fd));
    close(fd);
}

void after_exec(int inherited, int closed) {
    say("a descriptor that was left open: %s", asked(inherited));
    say("one that closes on exec: %s", asked(closed));
    close(inherited);
    int fd = ready_node();
    say("opened anew: %s", asked(fd));
    close(fd);
}

static void re_execute(void *nothing) {
    (void)nothing;
    char numbers[2][16];
    int inherited = open_path(options.node, O_RDWR);
    int closed = ready_node();
    (void)snprintf(numbers[0], sizeof numbers[0], "%d", inherited);
    (void)snprintf(numbers[1], sizeof numbers[1], "%d", closed);
    execl("/proc/self/exe", "chardev_user", "--node", options.node, "--inherited", numbers[0], "--closed", numbers[1],
          (char *)NULL);
    fail("exec: %s", named(-errno));
}

void stage_exec(void) { show_end("the program", in_child(re_execute, NULL)); }

/* Sends a descriptor over a socket, or receives one. */
static void send_descriptor(int socket, int fd) {
    char byte = 0;
    char control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec text = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &text, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (sendmsg(socket, &message, 0) != 1)
        fail("sendmsg: %s", named(-errno));
}

static int receive_descriptor(int socket) {
    char byte;
    int fd = -1;
    char control[CMSG_SPACE(sizeof fd)];
    struct iovec text = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &text, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1 || CMSG_FIRSTHDR(&message) == NULL)
        fail("recvmsg: %s", named(-errno));
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

static void use_passed(void *socket) {
    int fd = receive_descriptor(*(int *)socket);
    say("a file that another process opened: %s", asked(fd));
}

void stage_passed(void) {
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0)
        fail("socketpair: %s", named(-errno));
    pid_t child = fork();
    if (child == 0) {
        use_passed(&sockets[1]);
        _exit(0);
    }
    int fd = ready_node(); /* after the fork, so that the child has it through the socket alone */
    send_descriptor(sockets[0], fd);
    int status = 0;
    (void)waitpid(child, &status, 0);
    show_end("the child", status);
    send_descriptor(sockets[0], fd);
    int back = receive_descriptor(sockets[1]);
    close(fd);
    say("sent to oneself, and the first one closed: %s", asked(back));
    close(back);
    close(sockets[0]);
    close(sockets[1]);
}

static void hide(void *nothing) {
    (void)nothing;
    int fd = ready_node();
    if (prctl(PR_SET_DUMPABLE, 0) != 0)
        fail("prctl: %s", named(-errno));
    say("opened before: %s", asked(fd));
    say("the second time: %s", asked(fd));
    close(fd);
}

void stage_non_dumpable(void) { show_end("the child", in_child(hide, NULL)); }

static void *go_on(void *first) {
    (void)pthread_join(*(pthread_t *)first, NULL);
    int fd = ready_node();
    say("the first thread has ended: %s", asked(fd));
    close(fd);
    _exit(0);
}

static void end_first_thread(void *nothing) {
    static pthread_t first;
    pthread_t other;
    (void)nothing;
    first = pthread_self();
    if (pthread_create(&other, NULL, go_on, &first) != 0)
        fail("no thread");
    pthread_exit(NULL);
}

void stage_first_thread(void) { show_end("the child", in_child(end_first_thread, NULL)); }

static atomic_int answered;

static void *ask_often(void *file) {
    int fd = *(int *)file;
    for (int i = 0; i < COMMANDS_OF_A_THREAD; i++)
        if (ask(fd) == 0)
            atomic_fetch_add(&answered, 1);
    return NULL;
}

/* Threads of one process share a file; how many of their commands were answered is the process's end. */
static void use_with_threads(void) {
    pthread_t threads[THREADS];
    int fd = ready_node();
    for (size_t i = 0; i < COUNT(threads); i++)
        if (pthread_create(&threads[i], NULL, ask_often, &fd) != 0)
            fail("no thread");
    for (size_t i = 0; i < COUNT(threads); i++)
        (void)pthread_join(threads[i], NULL);
    _exit(atomic_load(&answered));
}

void stage_threads(void) {
    pid_t children[PROCESSES];
    int sum = 0;
    for (size_t i = 0; i < COUNT(children); i++)
        if ((children[i] = fork()) == 0)
            use_with_threads();
    for (size_t i = 0; i < COUNT(children); i++) {
        int status = 0;
        (void)waitpid(children[i], &status, 0);
        sum += WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    }
    say("%d processes of %d threads, commands: %d, answered: %d", PROCESSES, THREADS,
        PROCESSES * THREADS * COMMANDS_OF_A_THREAD, sum);
}

static volatile sig_atomic_t ticks;

static void tick(int number) {
    (void)number;
    ticks = ticks + 1;
}

struct commands {
    long answered;
    long interrupted;
    long failed;
};

/* As long as the timer runs, at least so many commands, and more until so many signals have come. */
static struct commands commands_under_signals(int fd) {
    const struct itimerval every_ms = {{0, 1000}, {0, 1000}};
    const struct itimerval never = {{0, 0}, {0, 0}};
    struct commands commands = {0};
    ticks = 0;
    if (setitimer(ITIMER_REAL, &every_ms, NULL) != 0)
        fail("setitimer: %s", named(-errno));
    for (int i = 0; i < COMMANDS_UNDER_SIGNALS || ticks < SIGNALS; i++)
        switch (ask(fd)) {
        case 0:
            commands.answered++;
            break;
        case -EINTR:
            commands.interrupted++;
            break;
        default:
            commands.failed++;
        }
    (void)setitimer(ITIMER_REAL, &never, NULL);
    return commands;
}

/* Linux interrupts none of the driver's ioctls. Where another program stands in for it, a call may end with EINTR
 * before that has taken it, if the handler wants no restart; in no case may a command be lost, or sent twice. */
static void show_commands_under_signals(int fd, const char *what, int flags) {
    struct sigaction action = {.sa_handler = tick, .sa_flags = flags};
    struct sigaction before;
    (void)sigaction(SIGALRM, &action, &before);
    long submitted = attribute_number("global/total_submissions");
    long completed = attribute_number("global/total_completions");
    struct commands commands = commands_under_signals(fd);
    (void)sigaction(SIGALRM, &before, NULL);
    submitted = attribute_number("global/total_submissions") - submitted;
    completed = attribute_number("global/total_completions") - completed;
    if (flags & SA_RESTART)
        say("%s: interrupted: %ld", what, commands.interrupted);
    say("%s: failed: %ld, submissions but one for each answer: %ld, completions: %ld", what, commands.failed,
        submitted - commands.answered, completed - commands.answered);
}

void stage_signals(void) {
    int fd = ready_node();
    show_commands_under_signals(fd, "with restart", SA_RESTART);
    show_commands_under_signals(fd, "without", 0);
    close(fd);
}

/* Uses a session until it is killed. */
static void use_until_killed(int ready) {
    int fd = ready_node();
    char byte = 0;
    (void)open_session(fd);
    while (ask(fd) == 0)
        if (ready >= 0 && write(ready, &byte, 1) == 1) {
            close(ready);
            ready = -1;
        }
    _exit(1);
}

void stage_killed(void) {
    for (int i = 0; i < KILLED; i++) {
        int ready[2];
        int status = 0;
        char byte = 0;
        if (pipe2(ready, O_CLOEXEC) != 0)
            fail("pipe: %s", named(-errno));
        pid_t child = fork();
        if (child == 0) {
            close(ready[0]);
            use_until_killed(ready[1]);
        }
        close(ready[1]);
        if (read(ready[0], &byte, 1) != 1)
            fail("the child does not come so far");
        (void)kill(child, SIGKILL);
        (void)waitpid(child, &status, 0);
        show_end("a child with a session", status);
        close(ready[0]);
    }
    int fd = ready_node();
    say("a command after that: %s", named(ask(fd)));
    close(fd);
}
