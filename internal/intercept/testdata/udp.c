// Datagrams to the target, and their traps: udp PORT PORT6 LOCALPORT.
#include "check.h"
#include <sched.h>

static int port, port6, localport;
static volatile sig_atomic_t signals;

static void on_signal(int s) { (void)s; signals++; }

static struct sockaddr_storage ss;
static socklen_t len;
static struct sockaddr *to(const char *host, int p) {
	ss = addr_(host, p, &len);
	return (void *)&ss;
}

static long sendt(int fd, const void *b, size_t n, const char *host, int p) {
	struct sockaddr *dst = to(host, p);
	return sendto(fd, b, n, 0, dst, len);
}

static const char *at(const char *host, int p) {
	static char b[64];
	snprintf(b, sizeof b, "%s %d", host, p);
	return b;
}

static int udp(int family_) {
	int fd = socket(family_, SOCK_DGRAM, 0);
	timeout_(fd, SO_RCVTIMEO, PATIENCE);
	return fd;
}

static void connected(void) {
	int fd = udp(AF_INET);
	OK(conn(fd, "198.51.100.1", port));
	CHECK(!strcmp(peer(fd), at("198.51.100.1", port)), "peer %s", peer(fd));
	OK(send(fd, "hello", 5, 0));
	char b[64] = {0};
	CHECK(recv(fd, b, sizeof b, 0) == 5 && !strcmp(b, "hello"), "got %s", b);
	OK(write(fd, "again", 5));
	struct sockaddr_storage from;
	socklen_t flen = sizeof from;
	CHECK(recvfrom(fd, b, sizeof b, 0, (void *)&from, &flen) == 5, "recvfrom");
	CHECK(!strcmp(show(&from), at("198.51.100.1", port)) && flen == 16, "from %s", show(&from));
	struct sockaddr un = {.sa_family = AF_UNSPEC};
	OK(connect(fd, &un, sizeof un));
	OK(conn(fd, "127.0.0.1", localport)); // a local destination after that
	OK(send(fd, "local", 5, 0));
	CHECK(recv(fd, b, sizeof b, 0) == 5, "local");
	CHECK(!strcmp(peer(fd), at("127.0.0.1", localport)), "peer %s", peer(fd));
	OK(conn(fd, "198.51.100.1", port)); // and back, without disconnecting
	OK(send(fd, "third", 5, 0));
	CHECK(recv(fd, b, sizeof b, 0) == 5, "third");
	OK(conn(fd, "192.0.2.5", localport));
	OK(send(fd, "fourth", 6, 0));
	close(fd);
}

static void families(void) {
	struct { const char *host, *shown; int p; } t[] = {
		{"2001:db8::1", "2001:db8::1", port6}, {"::ffff:198.51.100.1", "::ffff:198.51.100.1", port},
	};
	int fd = udp(AF_INET6);
	for (int i = 0; i < 2; i++) {
		char b[64];
		OK(sendt(fd, "six", 3, t[i].host, t[i].p));
		struct sockaddr_storage from;
		socklen_t flen = sizeof from;
		CHECK(recvfrom(fd, b, sizeof b, 0, (void *)&from, &flen) == 3 && flen == 28, "recvfrom");
		CHECK(!strcmp(show(&from), at(t[i].shown, t[i].p)), "from %s", show(&from));
	}
	close(fd);
	fd = udp(AF_INET);
	FAILS(sendt(fd, "x", 1, "2001:db8::1", port6), EAFNOSUPPORT);
	FAILS(sendt(fd, "x", 1, "::ffff:198.51.100.1", port), EAFNOSUPPORT);
	FAILS(conn(fd, "::ffff:198.51.100.1", port), EAFNOSUPPORT);
	close(fd);
}

// source asks the server which port the datagram came from.
static int source(int fd, const char *host) {
	char b[64] = {0};
	OK(sendt(fd, "?", 1, host, port));
	CHECK(recv(fd, b, sizeof b - 1, 0) > 0, "answer");
	return atoi(b);
}

static void unconnected(void) {
	int fd = udp(AF_INET);
	int first = source(fd, "198.51.100.1");
	CHECK(first > 0 && source(fd, "198.51.100.1") == first, "the port changed");
	CHECK(source(fd, "198.51.100.7") == first, "another destination has another source port");
	OK(sendt(fd, "l", 1, "127.0.0.1", localport));
	char b[64];
	struct sockaddr_storage from;
	socklen_t flen = sizeof from;
	OK(recvfrom(fd, b, sizeof b, 0, (void *)&from, &flen));
	CHECK(!strcmp(show(&from), at("127.0.0.1", localport)), "from %s", show(&from));
	FAILS(sendt(fd, "x", 1, "198.51.100.66", 9), EPERM);
	FAILS(sendt(fd, (void *)8, 4, "198.51.100.1", port), EFAULT);
	FAILS(sendto(fd, "x", 1, 0, (void *)8, 16), EFAULT);
	FAILS(recvfrom(fd, b, sizeof b, MSG_DONTWAIT, (void *)&from, &flen), EAGAIN);
	close(fd);
}

static void large(void) {
	int fd = udp(AF_INET);
	int n = 65507;
	char *b = malloc(70000), *r = malloc(70000);
	for (int i = 0; i < n; i++) b[i] = i * 7;
	b[0] = '!';
	OK(sendt(fd, b, n, "198.51.100.1", port));
	struct sockaddr_storage from;
	socklen_t flen = sizeof from;
	long got = recvfrom(fd, r, 70000, 0, (void *)&from, &flen);
	CHECK(got == n && !memcmp(b, r, n), "got %ld", got);
	FAILS(sendt(fd, b, 65508, "198.51.100.1", port), EMSGSIZE);
	FAILS(sendt(fd, b, 70000, "198.51.100.1", port), EMSGSIZE);
	OK(sendt(fd, b, 0, "198.51.100.1", port));
	got = recvfrom(fd, r, 70000, 0, (void *)&from, &flen);
	CHECK(got == 0 && !strcmp(show(&from), at("198.51.100.1", port)), "empty: %ld", got);
	close(fd);
}

static void flags(void) {
	int fd = udp(AF_INET);
	char b[64];
	struct sockaddr_storage from;
	socklen_t flen;
	OK(sendt(fd, "0123456789", 10, "198.51.100.1", port));
	flen = sizeof from;
	CHECK(recvfrom(fd, b, 4, MSG_PEEK, (void *)&from, &flen) == 4, "peek");
	CHECK(!strcmp(show(&from), at("198.51.100.1", port)), "from %s", show(&from));
	flen = 4; // less room than the address needs
	memset(&from, 0xee, sizeof from);
	CHECK(recvfrom(fd, b, 4, MSG_PEEK | MSG_TRUNC, (void *)&from, &flen) == 10, "peek trunc");
	CHECK(flen == 16 && ((unsigned char *)&from)[4] == 0xee, "flen %d", flen);
	struct iovec v[3] = {{b, 2}, {NULL, 0}, {b + 10, 3}};
	struct msghdr h = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = v, .msg_iovlen = 3};
	CHECK(recvmsg(fd, &h, 0) == 5 && !memcmp(b, "01", 2) && !memcmp(b + 10, "234", 3), "recvmsg");
	CHECK(h.msg_flags == MSG_TRUNC, "flags %x", h.msg_flags);
	CHECK(h.msg_namelen == 16 && !strcmp(show(&from), at("198.51.100.1", port)), "from %s", show(&from));
	timeout_(fd, SO_RCVTIMEO, 100);
	double t = now();
	flen = sizeof from;
	FAILS(recvfrom(fd, b, 4, 0, (void *)&from, &flen), EAGAIN);
	CHECK(now() - t > 0.08 && now() - t < PATIENCE / 1000, "after %f", now() - t);
	close(fd);
}

static void control(void) {
	int fd = udp(AF_INET), on = 1;
	OK(setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on));
	OK(setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on));
	char b[64], ctl[256] = {0};
	struct iovec v[2] = {{"con", 3}, {"trol", 4}};
	struct msghdr h = {.msg_name = to("198.51.100.1", port), .msg_namelen = 16, .msg_iov = v, .msg_iovlen = 2, .msg_control = ctl};
	// A source address that would be wrong on the way, and a TTL that is not.
	struct cmsghdr *c = (void *)ctl;
	c->cmsg_level = IPPROTO_IP;
	c->cmsg_type = IP_PKTINFO;
	c->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
	inet_pton(AF_INET, "203.0.113.9", &((struct in_pktinfo *)CMSG_DATA(c))->ipi_spec_dst);
	size_t used = CMSG_SPACE(sizeof(struct in_pktinfo));
	c = (void *)(ctl + used);
	c->cmsg_level = IPPROTO_IP;
	c->cmsg_type = IP_TTL;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	*(int *)CMSG_DATA(c) = 9;
	h.msg_controllen = used + CMSG_SPACE(sizeof(int));
	CHECK(sendmsg(fd, &h, 0) == 7, "sendmsg");
	struct sockaddr_storage from;
	struct iovec rv = {b, sizeof b};
	struct msghdr r = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &rv, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl};
	CHECK(recvmsg(fd, &r, 0) == 7 && !memcmp(b, "control", 7), "recvmsg");
	int info = 0, stamp = 0;
	for (c = CMSG_FIRSTHDR(&r); c; c = CMSG_NXTHDR(&r, c)) {
		info |= c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO;
		stamp |= c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMP;
	}
	CHECK(info && stamp && r.msg_flags == 0, "info %d stamp %d flags %x", info, stamp, r.msg_flags);
	h.msg_controllen = 0;
	OK(sendmsg(fd, &h, 0));
	r.msg_controllen = 8; // no room
	CHECK(recvmsg(fd, &r, 0) == 7 && r.msg_flags == MSG_CTRUNC, "flags %x", r.msg_flags);
	close(fd);
}

static void several(void) {
	int fd = udp(AF_INET);
	char b[4][64], addrs[4][64];
	struct mmsghdr out[4], in[4];
	struct sockaddr_storage dst[4], from[4];
	struct iovec ov[4], iv[4];
	memset(out, 0, sizeof out);
	memset(in, 0, sizeof in);
	for (int i = 0; i < 4; i++) {
		// The third is local.
		to(i == 2 ? "127.0.0.1" : "198.51.100.1", i == 2 ? localport : port);
		dst[i] = ss;
		snprintf(addrs[i], 64, "msg %d", i);
		ov[i] = (struct iovec){addrs[i], 5};
		out[i].msg_hdr = (struct msghdr){.msg_name = &dst[i], .msg_namelen = 16, .msg_iov = &ov[i], .msg_iovlen = 1};
		iv[i] = (struct iovec){b[i], 64};
		in[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &iv[i], .msg_iovlen = 1};
	}
	CHECK(sendmmsg(fd, out, 4, 0) == 4 && out[3].msg_len == 5, "sendmmsg");
	CHECK(recvmmsg(fd, in, 4, 0, NULL) == 4, "recvmmsg");
	int seen = 0, locals = 0;
	for (int i = 0; i < 4; i++) {
		CHECK(in[i].msg_len == 5, "len %u", in[i].msg_len);
		seen |= 1 << (b[i][4] - '0');
		int local = !strcmp(show(&from[i]), at("127.0.0.1", localport));
		locals += local;
		CHECK(local || !strcmp(show(&from[i]), at("198.51.100.1", port)), "from %s", show(&from[i]));
	}
	CHECK(seen == 15 && locals == 1, "seen %x, %d local", seen, locals);
	OK(sendt(fd, "one", 3, "198.51.100.1", port));
	CHECK(recvmmsg(fd, in, 4, MSG_WAITFORONE, NULL) == 1 && in[0].msg_len == 3, "MSG_WAITFORONE");
	OK(sendt(fd, "one", 3, "198.51.100.1", port));
	OK(sendt(fd, "two", 3, "198.51.100.1", port));
	struct timespec limit = {PATIENCE / 1000, 0};
	CHECK(recvmmsg(fd, in, 2, 0, &limit) == 2, "with a limit");
	FAILS(recvmmsg(fd, in, 4, MSG_DONTWAIT, NULL), EAGAIN);
	// A later failure does not hide what was sent.
	out[1].msg_hdr.msg_name = to("198.51.100.66", 9);
	CHECK(sendmmsg(fd, out, 4, 0) == 1, "until the failure");
	close(fd);
}

static void refused(void) {
	int fd = udp(AF_INET);
	char b[8];
	OK(conn(fd, "198.51.100.61", 9));
	OK(send(fd, "x", 1, 0));
	FAILS(recv(fd, b, sizeof b, 0), ECONNREFUSED); // blocked already, or pending
	OK(send(fd, "x", 1, 0));                        // still usable
	struct pollfd p = {fd, POLLIN, 0};
	CHECK(poll(&p, 1, PATIENCE) == 1 && so_error(fd) == ECONNREFUSED, "poll %x", p.revents);
	CHECK(!strcmp(peer(fd), at("198.51.100.61", 9)), "peer %s", peer(fd));
	OK(conn(fd, "198.51.100.1", port));
	OK(send(fd, "y", 1, 0));
	CHECK(recv(fd, b, sizeof b, 0) == 1, "after a refusal");
	close(fd);
	fd = udp(AF_INET);
	OK(sendt(fd, "x", 1, "198.51.100.64", 9));
	// An error that the pod's kernel gives at once comes with the next send.
	for (int i = 0; i < PATIENCE / 20; i++) {
		if (sendt(fd, "x", 1, "198.51.100.64", 9) < 0) {
			CHECK(errno == ENETUNREACH, "errno");
			close(fd);
			return;
		}
		usleep(20000);
	}
	CHECK(0, "no failure");
}

struct reader { int fd; char from[64]; long n; };

static void *reads(void *arg) {
	struct reader *r = arg;
	struct sockaddr_storage from;
	socklen_t flen = sizeof from;
	char b[16];
	r->n = recvfrom(r->fd, b, sizeof b, 0, (void *)&from, &flen);
	snprintf(r->from, sizeof r->from, "%s", r->n < 0 ? "-" : show(&from));
	return NULL;
}

static void reader_first(void) {
	// The reader is blocked before the socket has anything to do with the target.
	struct reader r = {.fd = udp(AF_INET)};
	socklen_t l;
	struct sockaddr_storage any = addr_("0.0.0.0", 0, &l);
	OK(bind(r.fd, (void *)&any, l));
	pthread_t th;
	pthread_create(&th, NULL, reads, &r);
	usleep(100000);
	OK(sendt(r.fd, "x", 1, "198.51.100.1", port));
	pthread_join(th, NULL);
	CHECK(r.n == 1 && !strcmp(r.from, at("198.51.100.1", port)), "from %s", r.from);
	close(r.fd);
}

static void interrupted(void) {
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	char b[16];
	struct sockaddr_storage from;
	socklen_t flen = sizeof from;
	for (int relayed = 0; relayed < 2; relayed++) {
		struct sigaction sa = {.sa_handler = on_signal};
		sigaction(SIGALRM, &sa, NULL);
		// Again and again, since the first may come before the call.
		struct itimerval it = {{0, 50000}, {0, 50000}}, none = {{0, 0}, {0, 0}};
		setitimer(ITIMER_REAL, &it, NULL);
		FAILS(recvfrom(fd, b, sizeof b, 0, (void *)&from, &flen), EINTR);
		setitimer(ITIMER_REAL, &none, NULL);
		OK(sendt(fd, "x", 1, "198.51.100.1", port));
		CHECK(recvfrom(fd, b, sizeof b, 0, (void *)&from, &flen) == 1, "recvfrom");
	}
	close(fd);
}

static void bound(void) {
	int fd = udp(AF_INET);
	socklen_t l;
	struct sockaddr_storage laptop = addr_("192.0.2.5", 0, &l);
	OK(bind(fd, (void *)&laptop, l));
	OK(sendt(fd, "b", 1, "198.51.100.1", port));
	char b[16];
	CHECK(recv(fd, b, sizeof b, 0) == 1, "recv");
	OK(conn(fd, "198.51.100.1", port));
	OK(send(fd, "bound", 5, 0));
	CHECK(recv(fd, b, sizeof b, 0) == 5, "recv");
	close(fd);
}

static void foreign(void) {
	// A socket of another network namespace must not be mistaken for one of ours.
	pid_t pid = fork();
	if (pid == 0) {
		if (unshare(CLONE_NEWNET) < 0) _exit(0); // not permitted
		failures = 0;
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		FAILS(conn(fd, "198.51.100.1", port), ENETUNREACH);
		fd = udp(AF_INET);
		FAILS(sendt(fd, "x", 1, "198.51.100.1", port), ENETUNREACH);
		fflush(stdout);
		_exit(failures);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0, "status %x", status);
}

int main(int argc, char **argv) {
	if (argc < 4) return 99;
	port = atoi(argv[1]);
	port6 = atoi(argv[2]);
	localport = atoi(argv[3]);
	struct { const char *name; void (*f)(void); } all[] = {
		{"connected", connected}, {"families", families}, {"unconnected", unconnected}, {"large", large},
		{"flags", flags}, {"control", control}, {"several", several}, {"refused", refused},
		{"reader_first", reader_first}, {"interrupted", interrupted}, {"bound", bound}, {"foreign", foreign},
	};
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		if (argc < 5 || !strcmp(argv[4], all[i].name)) all[i].f();
	printf("%d failures\n", failures);
	return failures;
}
