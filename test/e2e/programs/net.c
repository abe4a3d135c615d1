/* The C program of the end-to-end tests, built with glibc and, statically, with musl. See
 * programs_test.go for its steps. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "sha256.h"

static const char *error_name(int e) {
	switch (e) {
	case ECONNREFUSED: return "ECONNREFUSED";
	case EHOSTUNREACH: return "EHOSTUNREACH";
	case ENETUNREACH: return "ENETUNREACH";
	case ETIMEDOUT: return "ETIMEDOUT";
	case ECONNRESET: return "ECONNRESET";
	case EAGAIN: return "no answer";
	}
	return strerror(e);
}

/* lookup returns NULL after it has said why. */
static struct addrinfo *lookup(const char *host, const char *port, int type) {
	struct addrinfo hints = {.ai_socktype = type}, *all;
	int e = getaddrinfo(host, port, &hints, &all);
	if (e == 0)
		return all;
	int unknown = e == EAI_NONAME;
#ifdef EAI_NODATA
	unknown = unknown || e == EAI_NODATA;
#endif
	printf("%s\n", unknown ? "nxdomain" : gai_strerror(e));
	return NULL;
}

enum { patience = 120, resend = 10 }; /* seconds; a datagram is sent again, as it may be lost */

static void be_patient(int fd, int seconds) {
	struct timeval t = {.tv_sec = seconds};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

static void tcp(const char *host, const char *port) {
	struct addrinfo *all = lookup(host, port, SOCK_STREAM);
	int fd = -1, e = 0;
	if (!all)
		return;
	for (struct addrinfo *a = all; a && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
		if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
			e = errno;
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(all);
	if (fd < 0) {
		printf("%s\n", error_name(e));
		return;
	}
	static const char request[] = "GET / HTTP/1.0\r\n\r\n";
	static char answer[65536];
	size_t n = 0;
	ssize_t got = write(fd, request, sizeof request - 1);
	be_patient(fd, patience);
	while (got > 0 && n < sizeof answer - 1 && (got = read(fd, answer + n, sizeof answer - 1 - n)) > 0)
		n += got;
	if (got < 0) {
		printf("%s\n", error_name(errno));
	} else {
		while (n > 0 && answer[n - 1] == '\n')
			n--;
		answer[n] = 0;
		char *last = strrchr(answer, '\n');
		printf("%s\n", last ? last + 1 : answer);
	}
	close(fd);
}

static void udp(const char *host, const char *port, int connected) {
	struct addrinfo *a = lookup(host, port, SOCK_DGRAM);
	struct sockaddr_storage from;
	socklen_t len = sizeof from;
	char answer[1500];
	ssize_t n;
	if (!a)
		return;
	int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
	be_patient(fd, resend);
	n = connected ? connect(fd, a->ai_addr, a->ai_addrlen) : 0;
	for (int left = patience / resend; n == 0 && left > 0; left--) {
		n = connected ? send(fd, "hello", 5, 0) : sendto(fd, "hello", 5, 0, a->ai_addr, a->ai_addrlen);
		if (n == 5)
			n = connected ? recv(fd, answer, sizeof answer, 0) : recvfrom(fd, answer, sizeof answer, 0, (struct sockaddr *)&from, &len);
		if (n < 0 && errno == EAGAIN && left > 1)
			n = 0;
	}
	if (!connected) {
		if (n > 0 && (len != a->ai_addrlen || memcmp(&from, a->ai_addr, 8) != 0))
			n = snprintf(answer, sizeof answer, "answer from elsewhere");
	}
	if (n < 0)
		printf("%s\n", error_name(errno));
	else
		printf("%.*s\n", (int)n, answer);
	close(fd);
	freeaddrinfo(a);
}

static void text(const struct sockaddr *a, char *out) {
	const struct sockaddr_in6 *six = (const void *)a;
	const struct sockaddr_in *four = (const void *)a;
	if (a->sa_family == AF_INET6)
		inet_ntop(AF_INET6, &six->sin6_addr, out, INET6_ADDRSTRLEN);
	else
		inet_ntop(AF_INET, &four->sin_addr, out, INET6_ADDRSTRLEN);
}

static void resolve(const char *name) {
	struct addrinfo *all = lookup(name, NULL, SOCK_STREAM);
	if (!all)
		return;
	for (struct addrinfo *a = all; a; a = a->ai_next) {
		char ip[INET6_ADDRSTRLEN];
		text(a->ai_addr, ip);
		printf("%s%s", ip, a->ai_next ? " " : "\n");
	}
	freeaddrinfo(all);
}

/* header finds the value of a header among the lines of head, up to the end of its line. */
static int header(const char *head, const char *name, char *value, size_t size) {
	size_t n = strlen(name);
	for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
		line += 2;
		if (strncasecmp(line, name, n) == 0 && line[n] == ':') {
			const char *v = line + n + 1;
			v += strspn(v, " ");
			snprintf(value, size, "%.*s", (int)strcspn(v, "\r"), v);
			return 1;
		}
	}
	return 0;
}

/* serve answers the requests of one connection. peer is what accept gave. */
static void serve(int fd, const char *name, const struct sockaddr_in6 *peer) {
	static char buf[1 << 16];
	size_t have = 0;
	for (;;) {
		char *end;
		buf[have] = 0;
		while (!(end = strstr(buf, "\r\n\r\n"))) {
			ssize_t n = read(fd, buf + have, sizeof buf - 1 - have);
			if (n <= 0)
				return;
			have += n;
			buf[have] = 0;
		}
		*end = 0;
		char method[16] = "", path[256] = "", agent[256] = "", size[32] = "0", digest[65], ip[INET6_ADDRSTRLEN], line[1024];
		sscanf(buf, "%15s %255s", method, path);
		header(buf, "User-Agent", agent, sizeof agent);
		header(buf, "Content-Length", size, sizeof size);
		have -= end + 4 - buf;
		memmove(buf, end + 4, have);
		long body = atol(size), left = body;
		struct sha256 sum;
		sha256_init(&sum);
		while (left > 0) {
			size_t n = have < (size_t)left ? have : (size_t)left;
			sha256_add(&sum, buf, n);
			memmove(buf, buf + n, have -= n);
			if ((left -= n) == 0)
				break;
			ssize_t got = read(fd, buf, sizeof buf - 1);
			if (got <= 0)
				return;
			have = got;
		}
		sha256_hex(&sum, digest);
		struct sockaddr_in6 now = {0};
		socklen_t len = sizeof now;
		/* The address that accept gave must be the one that getpeername gives. */
		if (getpeername(fd, (struct sockaddr *)&now, &len) < 0 || now.sin6_port != peer->sin6_port ||
		    memcmp(&now.sin6_addr, &peer->sin6_addr, sizeof now.sin6_addr) != 0)
			snprintf(ip, sizeof ip, "getpeername differs");
		else
			text((const struct sockaddr *)peer, ip);
		int n = snprintf(line, sizeof line,
			"{\"name\":\"%s\",\"peer\":\"[%s]:%d\",\"method\":\"%s\",\"path\":\"%s\",\"agent\":\"%s\",\"size\":%ld,\"sha256\":\"%s\"}\n",
			name, ip, ntohs(peer->sin6_port), method, path, agent, body, digest);
		if (write(1, line, n) != n || dprintf(fd, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, line) < 0)
			return;
	}
}

static void listen_on(const char *port, const char *name) {
	struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
	int fd = socket(AF_INET6, SOCK_STREAM, 0), one = 1, zero = 0;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
	if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0 || listen(fd, 128) < 0) {
		printf("%s\n", strerror(errno));
		return;
	}
	printf("listening %s %s\n", name, port);
	fflush(stdout);
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		struct sockaddr_in6 peer;
		socklen_t len = sizeof peer;
		int c = accept(fd, (struct sockaddr *)&peer, &len);
		if (c < 0) {
			printf("accept: %s\n", strerror(errno));
			return;
		}
		if (fork() == 0) {
			close(fd);
			serve(c, name, &peer);
			_exit(0);
		}
		close(c);
	}
}

int main(int argc, char **argv) {
	for (int i = 1; i < argc;) {
		int words = strcmp(argv[i], "resolve") ? 3 : 2;
		if (i + words > argc)
			return 2;
		if (!strcmp(argv[i], "listen")) {
			listen_on(argv[i + 1], argv[i + 2]);
			return 1;
		}
		for (int k = 0; k < words; k++)
			printf("%s%c", argv[i + k], k + 1 < words ? ' ' : '\t');
		if (!strcmp(argv[i], "tcp"))
			tcp(argv[i + 1], argv[i + 2]);
		else if (!strcmp(argv[i], "udp") || !strcmp(argv[i], "udpto"))
			udp(argv[i + 1], argv[i + 2], !strcmp(argv[i], "udp"));
		else if (!strcmp(argv[i], "resolve"))
			resolve(argv[i + 1]);
		fflush(stdout);
		i += words;
	}
	return 0;
}
