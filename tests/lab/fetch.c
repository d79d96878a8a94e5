/* fetch ADDRESS | fetch NAME SERVER: prints what the web server at ADDRESS answers, or at the address that the DNS
 * server at SERVER gives for NAME; all addresses IPv4 or IPv6. Like a static Go program's: no libc resolver, no file
 * read, no variable, nothing that an LD_PRELOAD wrapper could catch. Linked statically. Each step has 5 s. */
#include <arpa/inet.h>
#include <err.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int connected(const char *address, int port, int type)
{
	struct timeval limit = { .tv_sec = 5 };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 to6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int is6 = inet_pton(AF_INET6, address, &to6.sin6_addr) == 1;
	int fd = socket(is6 ? AF_INET6 : AF_INET, type, 0);

	if (!is6 && inet_pton(AF_INET, address, &to.sin_addr) != 1)
		errx(2, "%s is no address", address);
	/* The send timeout bounds connect() too. */
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ||
	    connect(fd, is6 ? (void *)&to6 : (void *)&to, is6 ? sizeof to6 : sizeof to) < 0)
		err(1, "connect to %s port %d", address, port);
	return fd;
}

/* Asks for NAME's address (RFC 1035, section 4.1) and takes the first of the answer. */
static const char *resolved(const char *name, const char *server)
{
	static char address[INET_ADDRSTRLEN];
	unsigned char message[512] = { 0x12, 0x34, 1, 0, 0, 1 }, *at = message + 12;
	int fd = connected(server, 53, SOCK_DGRAM);
	size_t question;
	ssize_t got;

	for (const char *label = name; *label; label += *label == '.') {
		*at = strcspn(label, ".");
		memcpy(at + 1, label, *at);
		label += *at;
		at += 1 + *at;
	}
	memcpy(at, "\0\0\1\0\1", 5);
	question = at + 5 - message;
	if (send(fd, message, question, 0) < 0 || (got = recv(fd, message, sizeof message, 0)) < 0)
		err(1, "DNS at %s", server);
	/* After the question: a pointer to the name, type, class, time to live, length, address. */
	if (got < (ssize_t)question + 16 || message[7] == 0 || !inet_ntop(AF_INET, message + question + 12, address, sizeof address))
		errx(1, "DNS at %s has no address of %s", server, name);
	close(fd);
	return address;
}

int main(int argc, char **argv)
{
	char text[4096];
	ssize_t length;
	int fd;

	if (argc < 2 || argc > 3)
		errx(2, "usage: fetch ADDRESS, or fetch NAME SERVER");
	fd = connected(argc == 3 ? resolved(argv[1], argv[2]) : argv[1], 80, SOCK_STREAM);
	length = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", argv[1]);
	if (send(fd, text, length, 0) < 0)
		err(1, "send");
	while ((length = read(fd, text, sizeof text)) > 0)
		fwrite(text, 1, length, stdout);
	if (length < 0)
		err(1, "read");
	return 0;
}
