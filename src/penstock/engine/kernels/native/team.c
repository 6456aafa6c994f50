#define _GNU_SOURCE
#include "team.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How long a thread looks for work before it sleeps. Longer than what Python
   does between two operations of a step, shorter than anyone would notice. */
#define SPIN_NS 60000
#define SPINS_A_LOOK 64

/* `state` is all that threads agree on: the number of the job above, then whether
   it may still be joined, then how many are at it. */
#define ONE_JOB (1ULL << 16)
#define OPEN (1ULL << 15)
#define AT_WORK (OPEN - 1)

static struct {
  _Atomic uint64_t state;
  _Atomic uint32_t job; /* what sleepers wait on */
  _Atomic int sleepers;
  _Atomic int size, started;
  Work work;
  void *arg;
  pthread_mutex_t busy;
} team = {.size = 1, .started = 1, .busy = PTHREAD_MUTEX_INITIALIZER};

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Join the job that is open now; 0 if there is none. */
static int join(void) {
  uint64_t state = atomic_load_explicit(&team.state, memory_order_acquire);
  while (state & OPEN)
    if (atomic_compare_exchange_weak(&team.state, &state, state + 1)) return 1;
  return 0;
}

static void *member(void *number) {
  int thread = (int)(intptr_t)number;
  uint32_t seen = 0;
  for (;;) {
    int64_t asleep_at = now_ns() + SPIN_NS;
    uint32_t job;
    while ((job = atomic_load_explicit(&team.job, memory_order_acquire)) == seen) {
      for (int i = 0; i < SPINS_A_LOOK && atomic_load(&team.job) == seen; i++) _mm_pause();
      if (now_ns() < asleep_at) continue;
      atomic_fetch_add(&team.sleepers, 1);
      syscall(SYS_futex, &team.job, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
      atomic_fetch_sub(&team.sleepers, 1);
    }
    seen = job;
    if (thread < atomic_load(&team.size) && join()) {
      team.work(team.arg, thread);
      atomic_fetch_sub_explicit(&team.state, 1, memory_order_release);
    }
  }
  return NULL;
}

void team_run(Work work, void *arg) {
  if (atomic_load(&team.size) == 1 || pthread_mutex_trylock(&team.busy) != 0) {
    work(arg, 0); /* another thread of this process has the team */
    return;
  }
  team.work = work;
  team.arg = arg;
  uint64_t state = atomic_load(&team.state);
  atomic_store(&team.state, (state + ONE_JOB) | OPEN);
  atomic_fetch_add(&team.job, 1);
  if (atomic_load(&team.sleepers))
    syscall(SYS_futex, &team.job, FUTEX_WAKE_PRIVATE, TEAM_MOST, NULL, NULL, 0);
  work(arg, 0);
  atomic_fetch_and(&team.state, ~OPEN);
  for (int spins = 0; atomic_load_explicit(&team.state, memory_order_acquire) & AT_WORK; spins++)
    if (spins < 10000)
      _mm_pause();
    else
      sched_yield(); /* its core may have been taken from it */
  pthread_mutex_unlock(&team.busy);
}

/* Compute with `size` threads from now on. Returns how many there are. */
int penstock_threads(int size) {
  if (size > TEAM_MOST) size = TEAM_MOST;
  if (size < 1) size = 1;
  pthread_mutex_lock(&team.busy);
  for (; team.started < size; team.started++) {
    pthread_t made;
    if (pthread_create(&made, NULL, member, (void *)(intptr_t)team.started) != 0) break;
    pthread_detach(made);
  }
  if (size > team.started) size = team.started;
  team.size = size;
  pthread_mutex_unlock(&team.busy);
  return size;
}
