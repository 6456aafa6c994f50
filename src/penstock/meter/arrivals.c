/* Reads all sockets that have something, each piece with the time at which the kernel
   received it, and keeps what is plainly the middle of an answer for a while. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 256
#define PIECES 256
#define PIECE 8192
#define ROOM (3 * PIECE)
#define MANY 4 /* pieces after which they are looked at, so that an answer's end brings few */
#define OFFSET_HOLDS_NS 10000000
#define BILLION 1000000000LL

/* What came on one socket and was not taken yet; as in arrivals.py. */
typedef struct {
  int32_t descriptor;
  int32_t keeps; /* whether the middle of an answer may wait here */
  int32_t count; /* pieces */
  int32_t used;  /* bytes */
  int32_t ended; /* the stream is over */
  int32_t error; /* of errno, or 0 */
  int32_t more;  /* there may be more to read than fitted */
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

/* One call of the kernel; whether there may be more. */
static int read_piece(Stream *s) {
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
  }
  s->size[s->count] = (int32_t)size;
  s->at_ns[s->count] = at_ns < read_ns ? at_ns : read_ns;
  s->read_ns[s->count++] = read_ns;
  s->used += (int32_t)size;
  return size == PIECE;
}

/* Whether the last piece ends as an event does within a chunk, "\n\n\r\n": a chunked body
   cannot end so, only with "\r\n\r\n". The end mark is worth a look too. */
static int is_middle(const Stream *s) {
  int32_t size = s->size[s->count - 1];
  const uint8_t *piece = s->room + s->used - size;
  return size >= 4 && memcmp(piece + size - 4, "\n\n\r\n", 4) == 0 &&
         memmem(piece, size, "[DONE]", 6) == NULL;
}

/* Read what there is, as far as it fits. Returns whether somebody should look at it.
   A piece that does not fill its place was the last, unless `to_end` wants that seen. */
int penstock_read(Stream *s, int to_end) {
  int look = !s->keeps, more = 1;
  while (more && s->count < PIECES && s->used <= ROOM - PIECE) {
    int before = s->count;
    more = read_piece(s);
    if (s->count == before) continue;
    more |= to_end;
    look |= !is_middle(s);
  }
  s->more = more;
  return s->ended || s->error || more || s->count >= (look ? 1 : MANY);
}

/* Read every socket that has something; returns how many are to be looked at, `to` those,
   or -errno. */
int penstock_arrivals(int epoll, Stream **to) {
  struct epoll_event ready[BATCH];
  int count = epoll_wait(epoll, ready, BATCH, 0), found = 0;
  if (count < 0) return -errno;
  for (int i = 0; i < count; i++) {
    /* The other side may have ended the stream just after its last bytes. */
    int to_end = (ready[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    if (penstock_read(ready[i].data.ptr, to_end)) to[found++] = ready[i].data.ptr;
  }
  return found;
}

/* Watch a socket; edges only, since each is read to its end. Returns 0, or -errno. */
int penstock_watch(int epoll, Stream *s) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = s};
  return epoll_ctl(epoll, EPOLL_CTL_ADD, s->descriptor, &event) ? -errno : 0;
}
