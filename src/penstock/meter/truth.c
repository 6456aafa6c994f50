/* A server whose every event has a known time: the ground truth of `penstock selftest`.
 *
 *     truth TTFT_US ITL_US EVENTS TOKENS_PER_EVENT FILE
 *
 * Speaks enough of OpenAI's completions and chat API for any load generator. The
 * first event of an answer is due TTFT after the request's last byte arrived (by
 * the kernel's stamp, so reading late is our lateness, not the truth), each
 * further one ITL after the one before was due. `max_tokens` in a request sets the number of its
 * events; EVENTS is for requests without. Prints {"port", "realtime"}; when its
 * standard input ends, writes FILE, native int64, for each request:
 * id, arrival, due time of the first event, number of stamps, stamps. Stamps are CLOCK_MONOTONIC
 * just before each write; id is the number after "truth-" in the body, or -1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FDS = 1 << 16, READ = 1 << 16 };

typedef struct {
	int64_t id, arrival, due, sent, *stamps;
} Answer;

typedef struct {
	char *in;           /* the request so far */
	size_t size, room;
	Answer *answer;     /* under way, or NULL */
	int64_t due;        /* of its next event */
	int events, at;     /* how many it has; its place in the heap */
	int chat, whole, usage;
} Connection;

static Connection *connections[MOST_FDS];
static Answer **answers;
static size_t answered, answers_room;
static int heap[MOST_FDS + 1], waiting; /* descriptors, the one due first at 1 */
static int64_t ttft, itl;
static int default_events, tokens_per_event, poller;
static char words[4096];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void *grown(void *memory, size_t size)
{
	if (!(memory = realloc(memory, size)))
		die("realloc");
	return memory;
}

static int64_t clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* The kernel stamps by the wall clock; an interrupted pair of readings is read again. */
static int64_t wall_offset(void)
{
	int64_t before, wall, after;
	int tries = 0;
	do {
		before = now();
		wall = clock_ns(CLOCK_REALTIME);
		after = now();
	} while (after - before > 5000 && ++tries < 5);
	return (before + after) / 2 - wall;
}

/* A heap by due time. */

static int earlier(int a, int b)
{
	return connections[heap[a]]->due < connections[heap[b]]->due;
}

static void exchange(int a, int b)
{
	int fd = heap[a];
	heap[a] = heap[b];
	heap[b] = fd;
	connections[heap[a]]->at = a;
	connections[heap[b]]->at = b;
}

static void settle(int i)
{
	for (; i > 1 && earlier(i, i / 2); i /= 2)
		exchange(i, i / 2);
	for (int least; (least = 2 * i) <= waiting; i = least) {
		if (least < waiting && earlier(least + 1, least))
			least++;
		if (!earlier(least, i))
			break;
		exchange(i, least);
	}
}

static void await_due(int fd)
{
	heap[++waiting] = fd;
	connections[fd]->at = waiting;
	settle(waiting);
}

static void forget_due(int fd)
{
	int i = connections[fd]->at;
	exchange(i, waiting--);
	if (i <= waiting)
		settle(i);
	connections[fd]->answer = NULL;
}

static void hang_up(int fd)
{
	if (connections[fd]->answer)
		forget_due(fd);
	free(connections[fd]->in);
	free(connections[fd]);
	connections[fd] = NULL;
	close(fd);
}

/* A client whose buffers are full is so far behind that its answer is given up. */
static int say(int fd, const char *text, size_t size)
{
	return send(fd, text, size, MSG_NOSIGNAL) == (ssize_t)size;
}

static int say_json(int fd, int status, const char *body)
{
	char text[2 * sizeof words];
	int size = snprintf(text, sizeof text,
		"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
		status, strlen(body), body);
	return say(fd, text, size);
}

static const char USAGE[] =
	"\"usage\":{\"prompt_tokens\":32,\"completion_tokens\":%d,\"total_tokens\":%d}";

/* One event, as a chunk of the body; with the last one all that ends an answer. */
static int say_event(int fd)
{
	Connection *c = connections[fd];
	static char event[3 * sizeof words], chunk[4 * sizeof words];
	int last = c->answer->sent == c->events, tokens = c->events * tokens_per_event;
	int size = snprintf(event, sizeof event,
		"data: {\"id\":\"truth\",\"object\":\"%s\",\"created\":1,\"model\":\"truth\",\"choices\":[{"
		"\"index\":0,%s%s%s,\"finish_reason\":%s}]}\n\n",
		c->chat ? "chat.completion.chunk" : "text_completion",
		c->chat ? "\"delta\":{\"role\":\"assistant\",\"content\":\"" : "\"text\":\"", words,
		c->chat ? "\"}" : "\"", last ? "\"length\"" : "null");
	if (last && c->usage) {
		size += snprintf(event + size, sizeof event - size,
			"data: {\"id\":\"truth\",\"object\":\"%s\",\"created\":1,\"model\":\"truth\",\"choices\":[],",
			c->chat ? "chat.completion.chunk" : "text_completion");
		size += snprintf(event + size, sizeof event - size, USAGE, tokens, 32 + tokens);
		size += snprintf(event + size, sizeof event - size, "}\n\n");
	}
	if (last)
		size += snprintf(event + size, sizeof event - size, "data: [DONE]\n\n");
	size = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n%s", size, event, last ? "0\r\n\r\n" : "");
	return say(fd, chunk, size);
}

static int say_whole(int fd)
{
	Connection *c = connections[fd];
	int tokens = c->events * tokens_per_event;
	char body[2 * sizeof words], usage[128];
	snprintf(usage, sizeof usage, USAGE, tokens, 32 + tokens);
	snprintf(body, sizeof body,
		"{\"id\":\"truth\",\"object\":\"%s\",\"created\":1,\"model\":\"truth\",\"choices\":[{\"index\":0,"
		"%s%s%s,\"finish_reason\":\"length\"}],%s}",
		c->chat ? "chat.completion" : "text_completion",
		c->chat ? "\"message\":{\"role\":\"assistant\",\"content\":\"" : "\"text\":\"", words,
		c->chat ? "\"}" : "\"", usage);
	return say_json(fd, 200, body);
}

static void send_due(int64_t until)
{
	while (waiting && connections[heap[1]]->due <= until) {
		int fd = heap[1];
		Connection *c = connections[fd];
		Answer *answer = c->answer;
		answer->stamps[answer->sent++] = now();
		if (!(c->whole ? say_whole(fd) : say_event(fd))) {
			answer->sent--;
			hang_up(fd);
		} else if (answer->sent == c->events || c->whole) {
			forget_due(fd);
		} else {
			c->due += itl;
			settle(1);
		}
	}
}

/* The number or word after "key": in a JSON body, or NULL. */
static const char *value(const char *body, const char *key)
{
	const char *at = strstr(body, key);
	if (!at)
		return NULL;
	at += strlen(key);
	return at + strspn(at, "\": \t\r\n");
}

static int is_true(const char *body, const char *key)
{
	const char *at = value(body, key);
	return at && !strncmp(at, "true", 4);
}

static int take_post(int fd, const char *path, const char *body, int64_t arrival)
{
	static const char HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
		"Transfer-Encoding: chunked\r\n\r\n";
	Connection *c = connections[fd];
	const char *most = value(body, "\"max_tokens\""), *id = strstr(body, "truth-");
	if (!most)
		most = value(body, "\"max_completion_tokens\"");
	int asked = most ? atoi(most) : 0;
	c->events = asked > 0 ? (asked + tokens_per_event - 1) / tokens_per_event : default_events;
	c->chat = strstr(path, "/chat/") != NULL;
	c->whole = !is_true(body, "\"stream\"");
	c->usage = is_true(body, "\"include_usage\"");
	c->due = arrival + ttft + (c->whole ? (c->events - 1) * itl : 0);
	Answer *answer = grown(NULL, sizeof *answer);
	*answer = (Answer){id ? atoll(id + 6) : -1, arrival, c->due, 0, NULL};
	answer->stamps = grown(NULL, c->events * sizeof(int64_t));
	if (answered == answers_room)
		answers = grown(answers, (answers_room = 2 * answers_room + 1024) * sizeof *answers);
	answers[answered++] = c->answer = answer;
	await_due(fd);
	return c->whole || say(fd, HEAD, sizeof HEAD - 1);
}

/* Answer the request that is complete in the buffer, if one is; 0 hangs up. */
static int take_request(int fd, int64_t arrival)
{
	Connection *c = connections[fd];
	char method[8], path[256], *end = strstr(c->in, "\r\n\r\n");
	if (!end)
		return 1;
	*end = 0;
	const char *length = strcasestr(c->in, "\r\ncontent-length:");
	size_t need = end + 4 - c->in + (length ? atoll(length + 17) : 0);
	int known = sscanf(c->in, "%7s %255s", method, path) == 2;
	*end = '\r';
	if (!known || c->answer)
		return 0;
	if (c->size < need)
		return 1;
	c->size = 0;
	if (!strcmp(method, "POST"))
		return strstr(path, "/completions") ? take_post(fd, path, end + 4, arrival)
			: say_json(fd, 404, "{\"error\":{\"message\":\"no such path\"}}");
	if (strstr(path, "/models"))
		return say_json(fd, 200, "{\"object\":\"list\",\"data\":[{\"id\":\"truth\","
			"\"object\":\"model\",\"created\":1,\"owned_by\":\"penstock-truth\"}]}");
	return say_json(fd, strstr(path, "/health") ? 200 : 404, "{}");
}

static int take_bytes(int fd)
{
	Connection *c = connections[fd];
	char control[CMSG_SPACE(sizeof(struct timespec))];
	if (c->room < c->size + READ + 1)
		c->in = grown(c->in, c->room = 2 * c->size + READ + 1);
	struct iovec part = {c->in + c->size, READ};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
		.msg_controllen = sizeof control};
	ssize_t got = recvmsg(fd, &message, 0);
	if (got <= 0)
		return got < 0 && errno == EAGAIN;
	int64_t arrival = now();
	struct cmsghdr *stamp = CMSG_FIRSTHDR(&message);
	if (stamp && stamp->cmsg_type == SO_TIMESTAMPNS) {
		struct timespec t;
		memcpy(&t, CMSG_DATA(stamp), sizeof t);
		arrival = t.tv_sec * 1000000000LL + t.tv_nsec + wall_offset();
	}
	c->in[c->size += got] = 0;
	return take_request(fd, arrival);
}

static void watch(int fd)
{
	struct epoll_event want = {.events = EPOLLIN, .data.fd = fd};
	if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &want))
		die("epoll_ctl");
}

static void welcome(int listener)
{
	int fd, one = 1;
	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0 && fd < MOST_FDS) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
		connections[fd] = grown(NULL, sizeof(Connection));
		*connections[fd] = (Connection){0};
		watch(fd);
	}
	if (fd < 0 && errno != EAGAIN && errno != ECONNABORTED)
		die("accept");
}

static void write_truth(const char *path)
{
	FILE *file = fopen(path, "wb");
	if (!file)
		die(path);
	for (size_t i = 0; i < answered; i++) {
		fwrite(answers[i], sizeof(int64_t), 4, file);
		fwrite(answers[i]->stamps, sizeof(int64_t), answers[i]->sent, file);
	}
	if (fclose(file))
		die(path);
}

int main(int count, char **given)
{
	if (count != 6) {
		fprintf(stderr, "usage: truth TTFT_US ITL_US EVENTS TOKENS_PER_EVENT FILE\n");
		return 2;
	}
	ttft = atoll(given[1]) * 1000;
	itl = atoll(given[2]) * 1000;
	default_events = atoi(given[3]);
	tokens_per_event = atoi(given[4]);
	for (int i = 0; i < tokens_per_event && strlen(words) + 8 < sizeof words; i++)
		strcat(words, " token");

	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	struct sched_param above_meter = {.sched_priority = 2};
	int realtime = !sched_setscheduler(0, SCHED_FIFO, &above_meter);

	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof address;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096))
		die("listen");
	getsockname(listener, (struct sockaddr *)&address, &size);
	poller = epoll_create1(0);
	watch(listener);
	watch(0);
	printf("{\"port\":%d,\"realtime\":%s}\n", ntohs(address.sin_port), realtime ? "true" : "false");
	fflush(stdout);

	for (;;) {
		struct epoll_event ready[64];
		struct pollfd any = {.fd = poller, .events = POLLIN};
		int64_t left = waiting ? connections[heap[1]]->due - now() : 1000000000;
		if (left > 0) { /* epoll_wait alone would round to milliseconds */
			struct timespec rest = {left / 1000000000, left % 1000000000};
			ppoll(&any, 1, &rest, NULL);
		}
		int n = epoll_wait(poller, ready, 64, 0);
		for (int i = 0; i < n; i++) {
			int fd = ready[i].data.fd;
			char byte;
			if (fd == listener)
				welcome(listener);
			else if (fd == 0) {
				if (read(0, &byte, 1) <= 0) {
					write_truth(given[5]);
					return 0;
				}
			} else if (!take_bytes(fd))
				hang_up(fd);
		}
		send_due(now());
	}
}
