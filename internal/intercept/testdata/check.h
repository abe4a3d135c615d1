// Helpers of the C programs: each check prints what it found wrong, and the program ends
// with the number of those as its exit code.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failures;

// How long to wait for what must happen, in ms.
#define PATIENCE 60000

#define CHECK(cond, ...)                                        \
	do {                                                    \
		int saved = errno;                              \
		if (!(cond)) {                                  \
			failures++;                             \
			printf("%s:%d: ", __func__, __LINE__);  \
			printf(__VA_ARGS__);                    \
			printf(" (errno %d %s)\n", saved, strerror(saved)); \
			fflush(stdout);                         \
		}                                               \
	} while (0)

// A negative or zero value stands for success.
#define FAILS(call, want)                                                       \
	do {                                                                    \
		errno = 0;                                                      \
		long r_ = (long)(call);                                         \
		CHECK(r_ == -1 && errno == (want), "%s gave %ld, want errno %d", #call, r_, want); \
	} while (0)

#define OK(call)                                                  \
	do {                                                      \
		long r_ = (long)(call);                           \
		CHECK(r_ >= 0, "%s failed", #call);               \
	} while (0)

static struct sockaddr_storage addr_(const char *host, int port, socklen_t *len) {
	struct sockaddr_storage ss;
	memset(&ss, 0, sizeof ss);
	struct sockaddr_in *in = (void *)&ss;
	struct sockaddr_in6 *in6 = (void *)&ss;
	if (strchr(host, ':')) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		inet_pton(AF_INET6, host, &in6->sin6_addr);
		*len = sizeof *in6;
	} else {
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		inet_pton(AF_INET, host, &in->sin_addr);
		*len = sizeof *in;
	}
	return ss;
}

static int family(const char *host) { return strchr(host, ':') ? AF_INET6 : AF_INET; }

static int conn(int fd, const char *host, int port) {
	socklen_t len;
	struct sockaddr_storage ss = addr_(host, port, &len);
	return connect(fd, (void *)&ss, len);
}

// show formats an address as host port.
static const char *show(const struct sockaddr_storage *ss) {
	static char out[128];
	char host[64];
	if (ss->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)ss;
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
		snprintf(out, sizeof out, "%s %d", host, ntohs(in6->sin6_port));
	} else {
		const struct sockaddr_in *in = (const void *)ss;
		inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
		snprintf(out, sizeof out, "%s %d", host, ntohs(in->sin_port));
	}
	return out;
}

static const char *peer(int fd) {
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	if (getpeername(fd, (void *)&ss, &len) < 0) return strerror(errno);
	return show(&ss);
}

static int so_error(int fd) {
	int e = -1;
	socklen_t len = sizeof e;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0 || len != sizeof e) return -1;
	return e;
}

static double now(void) {
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void timeout_(int fd, int option, int ms) {
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};
	setsockopt(fd, SOL_SOCKET, option, &tv, sizeof tv);
}
