/* The static floor of `make bench-downtime`: answers every request with the same words, and ends at SIGTERM.
 * No interpreter, no libraries, no volume: what is left of a restart is the engine's and the kernel's. */
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char ANSWER[] =
    "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{\"version\":\"static\"}";

static void leave(int number) {
    (void)number;
    _exit(0);
}

/* The port of the one before may still be held for a moment. */
static int listening(unsigned short port) {
    for (;;) {
        struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
        int one = 1, server = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(server, (struct sockaddr *)&here, sizeof here) == 0 && listen(server, 128) == 0)
            return server;
        close(server);
        usleep(1000);
    }
}

int main(int count, char **words) {
    signal(SIGTERM, leave); /* As process 1 of a container it would not be ended by it otherwise. */
    int server = listening((unsigned short)(count > 1 ? atoi(words[1]) : 8080));
    for (;;) {
        char asked[4096];
        int client = accept(server, 0, 0);
        if (client < 0)
            continue;
        struct pollfd one = {client, POLLIN, 0};
        if (poll(&one, 1, 500) > 0 && read(client, asked, sizeof asked) > 0)
            (void)!write(client, ANSWER, strlen(ANSWER));
        shutdown(client, SHUT_WR);
        close(client);
    }
}
