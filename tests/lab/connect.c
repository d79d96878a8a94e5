/* Connects to ADDRESS PORT without libc's resolver, NSS or anything an LD_PRELOAD wrapper could catch.
 * With a REQUEST it sends that and shows what comes back first. Linked statically. Exit status 0: connected.
 * 1: refused, unreachable or nothing within 1.5 s. 2: usage. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timeval limit = { .tv_sec = 1, .tv_usec = 500000 };
	struct sockaddr_in to = { .sin_family = AF_INET };
	char answer[4096];
	ssize_t length;
	int fd;

	if (argc < 3 || argc > 4 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) {
		fprintf(stderr, "usage: connect IPV4-ADDRESS PORT [REQUEST]\n");
		return 2;
	}
	to.sin_port = htons(atoi(argv[2]));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	/* The send timeout bounds connect() too. */
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 ||
	    connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
		perror("connect");
		return 1;
	}
	if (argc == 4) {
		if (write(fd, argv[3], strlen(argv[3])) < 0 || write(fd, "\r\n\r\n", 4) < 0) {
			perror("write");
			return 1;
		}
		length = read(fd, answer, sizeof answer);
		fwrite(answer, 1, length > 0 ? length : 0, stdout);
	}
	return 0;
}
