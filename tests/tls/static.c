/* A client with OpenSSL linked into it, under names that nothing exports.
 *
 * usage: static ADDRESS PORT < CALL; sends what it reads, waits until the connection ends, and says `ended`. */
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	static char bytes[65536];
	SSL *ssl = SSL_new(SSL_CTX_new(TLS_client_method()));
	int fd = socket(AF_INET, SOCK_STREAM, 0), n;

	if (argc != 3 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
		return 2;
	to.sin_port = htons(atoi(argv[2]));
	n = fread(bytes, 1, sizeof(bytes), stdin);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) || SSL_set_fd(ssl, fd) != 1 || SSL_connect(ssl) != 1)
		return 3;
	SSL_write(ssl, bytes, n);
	while (SSL_read(ssl, bytes, sizeof(bytes)) > 0)
		;
	puts("ended");
	return 0;
}
