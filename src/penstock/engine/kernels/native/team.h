/* A team of threads that share the work of one operation.

   Its threads spin for a moment between operations, since the next one mostly
   follows within microseconds, and then sleep. Whoever arrives late does not
   hold up the others: who calls waits only for threads that have begun. */
#ifndef PENSTOCK_TEAM_H
#define PENSTOCK_TEAM_H

#include <stdatomic.h>
#include <stdint.h>

#define TEAM_MOST 64

/* One thread's part of an operation; `thread` is below the size of the team. */
typedef void (*Work)(void *arg, int thread);

/* Run `work` on every thread of the team that is free, the caller among them. */
void team_run(Work work, void *arg);

/* The next of `count` items that nobody has taken, or -1. */
static inline int64_t take(_Atomic int64_t *next, int64_t count) {
  int64_t item = atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
  return item < count ? item : -1;
}

#endif
