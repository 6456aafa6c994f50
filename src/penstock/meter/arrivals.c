/* Reads all sockets that have something, each piece with the time at which the kernel
   received it. What is plainly the middle of an answer loses its chunk frames and is kept
   until something else comes. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 256
#define BATCHES 8
#define PIECES 256
#define PIECE 8192
#define ROOM (3 * PIECE)
#define OFFSET_HOLDS_NS 10000000
#define BILLION 1000000000LL

/* What came on one socket and was not taken yet; as in arrivals.py. */
typedef struct {
  int32_t descriptor;
  int32_t between; /* what comes next begins a chunk, so that its frame can be read here */
  int32_t middles; /* the first pieces: bodies of chunks, without their frames */
  int32_t count;   /* pieces in all */
  int32_t used;    /* bytes */
  int32_t ended;   /* the stream is over */
  int32_t error;   /* of errno, or 0 */
  int32_t more;    /* there may be more to read than fitted */
  int32_t start[PIECES];
  int32_t size[PIECES];
  int64_t at_ns[PIECES]; /* of the monotonic clock */
  int64_t read_ns[PIECES];
  uint8_t room[ROOM];
} Stream;

int64_t penstock_stream_bytes(void) { return sizeof(Stream); }

static int64_t now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * BILLION + t.tv_nsec;
}

/* What to add to a time of the wall clock, in which the kernel stamps. */
static int64_t offset_at(int64_t now_ns) {
  static int64_t offset, until_ns;
  if (now_ns <= until_ns) return offset;
  /* A narrow pair: else we were interrupted between the readings. */
  for (int tries = 0; tries < 5; tries++) {
    int64_t before = now(CLOCK_MONOTONIC), wall = now(CLOCK_REALTIME), after = now(CLOCK_MONOTONIC);
    offset = (before + after) / 2 - wall;
    if (after - before < 5000) break;
  }
  until_ns = now_ns + OFFSET_HOLDS_NS;
  return offset;
}

static int digit(uint8_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 32;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The size of the body of the chunk at `at`, if it is whole, plainly framed and ends as an
   event does, without the end mark; else -1. `frame` is set to the bytes before the body. */
static int32_t middle(const uint8_t *at, int32_t left, int32_t *frame) {
  int32_t size = 0, i = 0;
  for (; i < 4 && i < left && digit(at[i]) >= 0; i++) size = 16 * size + digit(at[i]);
  if (i == 0 || left < i + 4 + size || at[i] != '\r' || at[i + 1] != '\n') return -1;
  const uint8_t *body = at + i + 2;
  if (size < 2 || memcmp(body + size - 2, "\n\n\r\n", 4) != 0) return -1;
  *frame = i + 2;
  return memmem(body, size, "[DONE]", 6) ? -1 : size;
}

static void put(Stream *s, int32_t start, int32_t size, int64_t at_ns, int64_t read_ns) {
  s->start[s->count] = start;
  s->size[s->count] = size;
  s->at_ns[s->count] = at_ns;
  s->read_ns[s->count++] = read_ns;
}

/* Keep the bytes from `s->used` to `end` as bodies, if they are nothing but whole chunks
   from the middle of an answer; whether they were. */
static int keep_middles(Stream *s, int32_t end, int64_t at_ns, int64_t read_ns) {
  int32_t before = s->count, at = s->used, frame, size;
  if (!s->between || s->middles < s->count) return 0;
  while (at < end && s->count < PIECES && (size = middle(s->room + at, end - at, &frame)) >= 0) {
    put(s, at + frame, size, at_ns, read_ns);
    at += frame + size + 2;
  }
  if (at < end) s->count = before;
  return at == end;
}

/* One call of the kernel. Returns whether there may be more; `look` is set if it brought
   something that is not plainly the middle of an answer. */
static int read_piece(Stream *s, int *look) {
  char control[CMSG_SPACE(sizeof(struct timespec))];
  struct iovec piece = {s->room + s->used, PIECE};
  struct msghdr message = {
      .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t size = recvmsg(s->descriptor, &message, MSG_DONTWAIT);
  if (size <= 0) {
    s->ended = size == 0;
    if (size < 0 && errno != EAGAIN && errno != EINTR) s->error = errno;
    return size < 0 && errno == EINTR;
  }
  int64_t read_ns = now(CLOCK_MONOTONIC), at_ns = read_ns;
  struct cmsghdr *first = CMSG_FIRSTHDR(&message);
  if (first && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SCM_TIMESTAMPNS) {
    struct timespec stamp;
    memcpy(&stamp, CMSG_DATA(first), sizeof stamp);
    at_ns = stamp.tv_sec * BILLION + stamp.tv_nsec + offset_at(read_ns);
    if (at_ns > read_ns) at_ns = read_ns;
  }
  int32_t end = s->used + (int32_t)size;
  if (keep_middles(s, end, at_ns, read_ns)) {
    s->middles = s->count;
  } else {
    put(s, s->used, (int32_t)size, at_ns, read_ns);
    *look = 1;
  }
  s->used = end;
  return size == PIECE;
}

/* Read what there is, as far as it fits. Returns whether somebody should look at it.
   A piece that does not fill its place was the last, unless `to_end` wants that seen. */
int penstock_read(Stream *s, int to_end) {
  int look = 0, more = 1;
  while (more && s->count < PIECES && s->used <= ROOM - PIECE) {
    int before = s->count;
    more = read_piece(s, &look);
    if (s->count > before) more |= to_end;
  }
  s->more = more;
  return s->ended || s->error || more || look;
}

/* Read every socket that has something; returns how many are to be looked at, `to` those,
   or -errno. Where a thousand have something, all are read before the caller rests: an event
   that comes while its stream's last one lies unread would share its stamp. */
int penstock_arrivals(int epoll, Stream **to) {
  struct epoll_event ready[BATCH];
  int count = BATCH, found = 0;
  for (int batch = 0; batch < BATCHES && count == BATCH; batch++) {
    count = epoll_wait(epoll, ready, BATCH, 0);
    if (count < 0) return found ? found : -errno;
    for (int i = 0; i < count; i++) {
      /* The other side may have ended the stream just after its last bytes. */
      int to_end = (ready[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
      if (penstock_read(ready[i].data.ptr, to_end)) to[found++] = ready[i].data.ptr;
    }
  }
  return found;
}

/* Watch a socket; edges only, since each is read to its end. Returns 0, or -errno. */
int penstock_watch(int epoll, Stream *s) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = s};
  return epoll_ctl(epoll, EPOLL_CTL_ADD, s->descriptor, &event) ? -errno : 0;
}
