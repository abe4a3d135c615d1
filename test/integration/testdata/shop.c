// The shop (shop/main.go) in C, one client at a time.
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int answer(const char *line, char *reply, int size) {
  struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
  if (getaddrinfo("shop.demo.svc.cluster.local", "7000", &hints, &found) != 0) return -1;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, found->ai_addr, found->ai_addrlen) != 0) return -1;
  freeaddrinfo(found);
  dprintf(fd, "%s\n", line);
  FILE *f = fdopen(fd, "r");
  if (fgets(reply, size, f) == NULL) return -1;
  fclose(f);
  reply[strcspn(reply, "\n")] = 0;
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  int on = 1, l = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
  if (bind(l, (struct sockaddr *)&at, sizeof at) != 0 || listen(l, 16) != 0) return perror("listen"), 1;
  puts("listening v1");
  fflush(stdout);
  for (;;) {
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    int fd = accept(l, (struct sockaddr *)&peer, &size);
    if (fd < 0) return perror("accept"), 1;
    FILE *f = fdopen(fd, "r");
    char line[200], reply[300];
    while (fgets(line, sizeof line, f) != NULL) {
      line[strcspn(line, "\r\n")] = 0;
      if (strcmp(line, "bye") == 0) {
        dprintf(fd, "bye\n");
        return 0;
      }
      if (answer(line, reply, sizeof reply) != 0) return perror("answer"), 1;
      dprintf(fd, "c v1 asked by %s; %s\n", inet_ntoa(peer.sin_addr), reply);
    }
    fclose(f);
  }
}
