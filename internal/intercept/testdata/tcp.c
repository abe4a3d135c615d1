// What connect(2) does, against what it does without interception: tcp PORT PORT6.
//
// Connections to 198.51.100.2 are held at the target; the program itself says when they are made (arrive), and can wait
// until one is held.
#include "check.h"
#include <sys/mman.h>

static int port, port6;
static volatile sig_atomic_t signals;

static void on_signal(int s) { (void)s; signals++; }

// arrive lets one connection to 198.51.100.2 be made.
static void arrive(void) {
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	OK(conn(fd, "198.51.100.3", port));
	close(fd);
}

// held waits until a connection to 198.51.100.2 is under way.
static void held(void) {
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	OK(conn(fd, "198.51.100.4", port));
	close(fd);
}

static void echoes(int fd) {
	char b[8] = {0};
	OK(write(fd, "ping", 4));
	CHECK(recv(fd, b, 4, MSG_WAITALL) == 4 && !strcmp(b, "ping"), "echo gave %s", b);
}

static void blocking(void) {
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	OK(conn(fd, "198.51.100.1", port));
	char want[64];
	snprintf(want, sizeof want, "198.51.100.1 %d", port);
	CHECK(!strcmp(peer(fd), want), "peer %s, want %s", peer(fd), want);
	CHECK(so_error(fd) == 0, "SO_ERROR");
	FAILS(conn(fd, "198.51.100.1", port), EISCONN);
	FAILS(conn(fd, "198.51.100.61", port), EISCONN);
	echoes(fd);
	OK(shutdown(fd, SHUT_WR));
	char c;
	CHECK(read(fd, &c, 1) == 0, "end of data");
	close(fd);
}

static void families(void) {
	struct { const char *host; int domain, port; const char *shown; } t[] = {
		{"2001:db8::1", AF_INET6, port6, "2001:db8::1"},
		{"::ffff:198.51.100.1", AF_INET6, port, "::ffff:198.51.100.1"},
	};
	for (int i = 0; i < 2; i++)
		for (int nb = 0; nb < 2; nb++) {
			int fd = socket(t[i].domain, SOCK_STREAM | (nb ? SOCK_NONBLOCK : 0), 0);
			if (nb) {
				FAILS(conn(fd, t[i].host, t[i].port), EINPROGRESS);
				struct pollfd p = {fd, POLLOUT, 0};
				CHECK(poll(&p, 1, PATIENCE) == 1 && p.revents == POLLOUT, "poll %x", p.revents);
				fcntl(fd, F_SETFL, 0);
			} else {
				OK(conn(fd, t[i].host, t[i].port));
			}
			char want[64];
			snprintf(want, sizeof want, "%s %d", t[i].shown, t[i].port);
			CHECK(!strcmp(peer(fd), want), "peer %s, want %s", peer(fd), want);
			echoes(fd);
			close(fd);
		}
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	FAILS(conn(fd, "2001:db8::1", port6), EAFNOSUPPORT);
	FAILS(conn(fd, "::ffff:198.51.100.1", port), EAFNOSUPPORT);
	close(fd);
	fd = socket(AF_INET6, SOCK_STREAM, 0);
	FAILS(conn(fd, "198.51.100.1", port), EAFNOSUPPORT);
	close(fd);
}

static const struct { const char *host; int err; } bad[] = {
	{"198.51.100.61", ECONNREFUSED}, {"198.51.100.62", ETIMEDOUT}, {"198.51.100.63", EHOSTUNREACH},
	{"198.51.100.64", ENETUNREACH}, {"2001:db8::61", ECONNREFUSED},
};

static void blocking_errors(void) {
	for (int i = 0; i < 5; i++) {
		int fd = socket(family(bad[i].host), SOCK_STREAM, 0);
		FAILS(conn(fd, bad[i].host, 80), bad[i].err);
		CHECK(so_error(fd) == 0, "SO_ERROR after a blocking failure");
		FAILS(conn(fd, bad[i].host, 80), bad[i].err); // a new attempt
		if (family(bad[i].host) == AF_INET) {
			OK(conn(fd, "198.51.100.1", port));
			echoes(fd);
		}
		close(fd);
	}
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	FAILS(conn(fd, "198.51.100.66", 80), EPERM);
	close(fd);
}

static int failing(const char *host, short *revents) {
	int fd = socket(family(host), SOCK_STREAM | SOCK_NONBLOCK, 0);
	FAILS(conn(fd, host, 80), EINPROGRESS);
	struct pollfd p = {fd, POLLIN | POLLOUT, 0};
	CHECK(poll(&p, 1, PATIENCE) == 1, "poll");
	*revents = p.revents;
	return fd;
}

static void nonblocking_errors(void) {
	short revents;
	for (int i = 0; i < 5; i++) {
		// poll, SO_ERROR
		int fd = failing(bad[i].host, &revents);
		CHECK(revents & POLLERR || revents & POLLHUP, "revents %x", revents);
		int e = so_error(fd);
		CHECK(e == bad[i].err, "%s: SO_ERROR %d, want %d", bad[i].host, e, bad[i].err);
		CHECK(so_error(fd) == 0, "SO_ERROR is told once");
		FAILS(conn(fd, bad[i].host, 80), ECONNABORTED); // as Linux does
		int v4 = family(bad[i].host) == AF_INET;
		FAILS(conn(fd, v4 ? "198.51.100.1" : "2001:db8::1", v4 ? port : port6), EINPROGRESS);
		struct pollfd p = {fd, POLLOUT, 0};
		CHECK(poll(&p, 1, PATIENCE) == 1 && so_error(fd) == 0, "a socket can be used again");
		close(fd);
		// poll, second connect
		fd = failing(bad[i].host, &revents);
		FAILS(conn(fd, bad[i].host, 80), bad[i].err);
		FAILS(conn(fd, bad[i].host, 80), EINPROGRESS);
		close(fd);
	}
	int fd = failing("198.51.100.61", &revents);
	char c;
	FAILS(read(fd, &c, 1), ECONNRESET); // for those who do not ask; Linux: the true one
	close(fd);
}

static void nonblocking(void) {
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	int ep = epoll_create1(0);
	struct epoll_event ev = {EPOLLIN | EPOLLOUT | EPOLLET, {0}};
	OK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev)); // before connect: the description must stay
	epoll_wait(ep, &ev, 1, 0);                 // EPOLLOUT|EPOLLHUP of an unconnected socket
	FAILS(conn(fd, "198.51.100.2", port), EINPROGRESS);
	CHECK(!strcmp(peer(fd), strerror(ENOTCONN)), "peer %s", peer(fd));
	FAILS(conn(fd, "198.51.100.2", port), EALREADY);
	CHECK(so_error(fd) == 0, "SO_ERROR while connecting");
	CHECK(epoll_wait(ep, &ev, 1, 50) == 0, "events %x before the far side answered", ev.events);
	arrive();
	CHECK(epoll_wait(ep, &ev, 1, PATIENCE) == 1 && ev.events == EPOLLOUT, "events %x", ev.events);
	CHECK(so_error(fd) == 0, "SO_ERROR");
	OK(conn(fd, "198.51.100.2", port)); // the end of the attempt, as Linux does
	FAILS(conn(fd, "198.51.100.2", port), EISCONN);
	fcntl(fd, F_SETFL, 0);
	echoes(fd);
	close(fd);
	close(ep);
}

static void arguments(void) {
	socklen_t len;
	struct sockaddr_storage ss = addr_("198.51.100.1", port, &len);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	FAILS(connect(fd, (void *)8, len), EFAULT);
	FAILS(connect(fd, (void *)&ss, 8), EINVAL);
	FAILS(connect(fd, (void *)&ss, 1000), EINVAL);
	FAILS(connect(fd, (void *)&ss, -1), EINVAL);
	FAILS(connect(999, (void *)&ss, len), EBADF);
	FAILS(connect(1, (void *)&ss, len), ENOTSOCK);
	FAILS(getpeername(fd, (void *)&ss, &len), ENOTCONN);
	FAILS(sendto(fd, "x", 1, MSG_FASTOPEN, (void *)&ss, len), EOPNOTSUPP);
	close(fd);
}

static void *never_connects(void *arg) {
	int fd = *(int *)arg;
	int r = conn(fd, "198.51.100.65", 80);
	CHECK(r == -1 && (errno == ECONNABORTED || errno == ECONNRESET), "connect gave %d", r);
	return NULL;
}

// disconnected_by_another: a thread waits in connect, and another one disconnects the socket.
static void disconnected_by_another(void) {
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	pthread_t th;
	pthread_create(&th, NULL, never_connects, &fd);
	struct sockaddr un = {.sa_family = AF_UNSPEC};
	double start = now();
	int joined;
	while ((joined = pthread_tryjoin_np(th, NULL)) != 0 && now() - start < PATIENCE / 1000) {
		OK(connect(fd, &un, sizeof un));
		usleep(10000);
	}
	CHECK(joined == 0, "the thread still waits");
	OK(conn(fd, "198.51.100.1", port));
	echoes(fd);
	close(fd);
}

static void disconnects(void) {
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	OK(conn(fd, "198.51.100.1", port));
	struct sockaddr un = {.sa_family = AF_UNSPEC};
	OK(connect(fd, &un, sizeof un));
	CHECK(!strcmp(peer(fd), strerror(ENOTCONN)), "peer %s", peer(fd));
	OK(conn(fd, "198.51.100.1", port));
	echoes(fd);
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	FAILS(conn(fd, "198.51.100.65", 80), EINPROGRESS);
	OK(connect(fd, &un, sizeof un));
	fcntl(fd, F_SETFL, 0);
	OK(conn(fd, "198.51.100.1", port));
	echoes(fd);
	close(fd);
}

static void send_timeout(void) {
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	timeout_(fd, SO_SNDTIMEO, 150);
	double t = now();
	FAILS(conn(fd, "198.51.100.2", port), EINPROGRESS);
	CHECK(now() - t > 0.1, "after %f", now() - t);
	CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0, "still blocking");
	arrive();
	struct pollfd p = {fd, POLLOUT, 0};
	CHECK(poll(&p, 1, PATIENCE) == 1 && so_error(fd) == 0, "the attempt goes on");
	echoes(fd);
	close(fd);
}

// interrupts sends the thread a signal when its connect is held. An earlier one could end the call before anybody has seen
// it.
static void *interrupts(void *thread) {
	held();
	pthread_kill(*(pthread_t *)thread, SIGALRM);
	return NULL;
}

// arrives lets the connection be made after the signal.
static void *arrives(void *thread) {
	interrupts(thread);
	while (signals == 0) usleep(1000);
	arrive();
	return NULL;
}

// far_connect connects to 198.51.100.2 while another thread does its part. Its errno is connect's.
static int far_connect(int fd, int flags, void *(*other)(void *)) {
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = flags};
	sigaction(SIGALRM, &sa, NULL);
	signals = 0;
	pthread_t self = pthread_self(), th;
	pthread_create(&th, NULL, other, &self);
	int r = conn(fd, "198.51.100.2", port), saved = errno;
	pthread_join(th, NULL);
	errno = saved;
	return r;
}

static void interrupted(void) {
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	FAILS(far_connect(fd, 0, interrupts), EINTR);
	arrive();
	struct pollfd p = {fd, POLLOUT, 0};
	CHECK(poll(&p, 1, PATIENCE) == 1 && p.revents == POLLOUT, "revents %x", p.revents);
	CHECK(so_error(fd) == 0, "the attempt goes on");
	echoes(fd);
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	OK(far_connect(fd, SA_RESTART, arrives));
	CHECK(signals == 1, "%d signals", signals);
	echoes(fd);
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	FAILS(far_connect(fd, 0, interrupts), EINTR);
	close(fd);
}

static void *connects(void *arg) {
	(void)arg;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	OK(conn(fd, "198.51.100.1", port));
	echoes(fd);
	close(fd);
	return NULL;
}

static void processes(void) {
	pthread_t th[20];
	for (int i = 0; i < 20; i++) pthread_create(&th[i], NULL, connects, NULL);
	for (int i = 0; i < 20; i++) pthread_join(th[i], NULL);
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		failures = 0;
		connects(NULL);
		_exit(failures);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0, "fork");
	pid = vfork();
	if (pid == 0) {
		connects(NULL);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0, "vfork");
}

static void reset(void) {
	// The server of the test resets what begins with R.
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	OK(conn(fd, "198.51.100.1", port));
	OK(write(fd, "R", 1));
	char c;
	FAILS(read(fd, &c, 1), ECONNRESET);
	close(fd);
}

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static void mptcp(void) {
	for (int nb = 0; nb < 2; nb++) {
		int fd = socket(AF_INET, SOCK_STREAM | (nb ? SOCK_NONBLOCK : 0), IPPROTO_MPTCP);
		if (fd < 0) return; // the kernel has none
		int r = conn(fd, "198.51.100.1", port);
		CHECK(r == 0 || (nb && errno == EINPROGRESS), "connect");
		struct pollfd p = {fd, POLLOUT, 0};
		CHECK(poll(&p, 1, PATIENCE) == 1, "poll");
		fcntl(fd, F_SETFL, 0);
		echoes(fd);
		OK(shutdown(fd, SHUT_WR));
		char c;
		CHECK(read(fd, &c, 1) == 0, "end of data");
		close(fd);
		fd = socket(AF_INET, SOCK_STREAM | (nb ? SOCK_NONBLOCK : 0), IPPROTO_MPTCP);
		FAILS(conn(fd, "198.51.100.61", 80), ECONNREFUSED);
		close(fd);
	}
}

static void bound(void) {
	socklen_t len;
	struct sockaddr_storage ss = addr_("192.0.2.5", 0, &len);
	for (int nb = 0; nb < 2; nb++) {
		int fd = socket(AF_INET, SOCK_STREAM | (nb ? SOCK_NONBLOCK : 0), 0);
		OK(bind(fd, (void *)&ss, len));
		OK(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "eth9", 4));
		int r = conn(fd, "198.51.100.1", port);
		CHECK(r == 0 || (nb && errno == EINPROGRESS), "connect");
		struct pollfd p = {fd, POLLOUT, 0};
		CHECK(poll(&p, 1, PATIENCE) == 1, "poll");
		fcntl(fd, F_SETFL, 0);
		echoes(fd);
		close(fd);
	}
}

#ifdef __x86_64__
static long call32(long nr, long a, long b, long c) {
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory");
	return r;
}

// given: sockets that a 32-bit program was given. It may use their connections, and make none.
static void given(void) {
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED) return;
	unsigned at = (unsigned)(unsigned long)low;
	socklen_t len;
	struct sockaddr_storage ss = addr_("198.51.100.1", port, &len);
	memcpy(low, &ss, len);
	unsigned *iov = (unsigned *)(low + 128), *hdr = (unsigned *)(low + 256);
	memcpy(low + 512, "ping", 4);
	iov[0] = at + 512, iov[1] = 4;
	hdr[0] = at, hdr[1] = len, hdr[2] = at + 128, hdr[3] = 1;
	const int connect_ = 362, sendmsg_ = 370, sendmmsg_ = 345;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(call32(connect_, fd, at, len) == -EAFNOSUPPORT, "connect gave %ld", call32(connect_, fd, at, len));
	CHECK(call32(connect_, 999, at, len) == -EBADF, "connect of no descriptor");
	OK(conn(fd, "198.51.100.1", port));
	hdr[0] = hdr[1] = 0;
	CHECK(call32(sendmsg_, fd, at + 256, 0) == 4, "sendmsg of a connection");
	char b[8] = {0};
	CHECK(recv(fd, b, 4, MSG_WAITALL) == 4 && !strcmp(b, "ping"), "echo gave %s", b);
	close(fd);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	hdr[0] = at, hdr[1] = len;
	CHECK(call32(sendmsg_, fd, at + 256, 0) == -EAFNOSUPPORT, "sendmsg gave %ld", call32(sendmsg_, fd, at + 256, 0));
	CHECK(call32(sendmmsg_, fd, at + 256, 1) == -EAFNOSUPPORT, "sendmmsg gave %ld", call32(sendmmsg_, fd, at + 256, 1));
	CHECK(call32(sendmsg_, fd, 8, 0) == -EFAULT, "sendmsg of nothing gave %ld", call32(sendmsg_, fd, 8, 0));
	close(fd);
	int pair[2];
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	hdr[0] = hdr[1] = 0;
	CHECK(call32(sendmsg_, pair[0], at + 256, 0) == 4, "sendmsg of a Unix socket");
	close(pair[0]);
	close(pair[1]);
	munmap(low, 4096);
}
#else
static void given(void) {}
#endif

static void withheld(void) {
	char params[128] = {0};
	FAILS(syscall(SYS_io_uring_setup, 8, params), ENOSYS);
	OK(prctl(PR_SET_DUMPABLE, 0));
	CHECK(prctl(PR_GET_DUMPABLE) == 1, "dumpable");
#ifdef __x86_64__
	FAILS(syscall(0x40000000 + 41, AF_INET, SOCK_STREAM, 0), ENOSYS); // x32
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(359), "b"(AF_INET), "c"(SOCK_STREAM), "d"(0) : "memory");
	CHECK(r == -EAFNOSUPPORT || r == -ENOSYS, "i386 socket gave %ld", r);
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(102), "b"(1), "c"(0) : "memory");
	CHECK(r == -ENOSYS, "i386 socketcall gave %ld", r);
#endif
}

int main(int argc, char **argv) {
	if (argc < 3) return 99;
	port = atoi(argv[1]);
	port6 = atoi(argv[2]);
	struct { const char *name; void (*f)(void); } all[] = {
		{"blocking", blocking}, {"families", families}, {"blocking_errors", blocking_errors},
		{"nonblocking_errors", nonblocking_errors}, {"nonblocking", nonblocking}, {"arguments", arguments},
		{"disconnects", disconnects}, {"disconnected_by_another", disconnected_by_another}, {"given", given}, {"send_timeout", send_timeout}, {"interrupted", interrupted},
		{"processes", processes}, {"reset", reset}, {"mptcp", mptcp}, {"bound", bound}, {"withheld", withheld},
	};
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		if (argc < 4 || !strcmp(argv[3], all[i].name)) all[i].f();
	printf("%d failures\n", failures);
	return failures;
}
