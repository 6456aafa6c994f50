/* Attention over pages, whose layout pages.h has.

   In int8 and int4 queries are quantized, so that scores are whole numbers; weights of
   values are too, 8 bits of the largest in four tiles.

   Queries go through in blocks: the heads that share a KV head, of one row or of
   several that attend the same pages. Decodes that share a prefix are such a block
   for its length, and each resumes alone from there: their sums so far are kept
   between, as between any two tiles (online softmax: Milakov & Gimelshein 2018).
   Tiles are taken four at a time, counted from the first slot, whoever shares a
   block, so a row's result does not depend on its company. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "pages.h"
#include "simd.h"
#include "team.h"

#define TILES 4 /* taken together */
#define STRIDE (TILES * SLOTS)
#define MOST 8 /* queries of a block */

/* Who attends what. */

typedef struct {
  const int64_t *table;
  int32_t begin, end; /* slots, begin a multiple of STRIDE */
  int32_t rows;       /* at most MOST / group */
  int32_t resumes, pauses; /* whether the sums are taken up from before, or left for later */
  int32_t row[MOST], first[MOST], last[MOST]; /* each sees slots first..last-1 */
} Block;

typedef struct {
  int64_t decodes;
  const int64_t *tables; /* [decodes][width] */
  int64_t width;
  const int64_t *contexts; /* [decodes] */
  int64_t spans;
  const int64_t *span; /* [spans][4]: first row, row after the last, context, address of table */
} Batch;

static int32_t first_of(int64_t context, int64_t window) {
  return window > 0 && context > window ? (int32_t)(context - window) : 0;
}

static void close_block(Block *b) {
  int32_t first = b->first[0], last = b->last[0];
  for (int i = 1; i < b->rows; i++) {
    first = b->first[i] < first ? b->first[i] : first;
    last = b->last[i] > last ? b->last[i] : last;
  }
  b->begin = first / STRIDE * STRIDE;
  b->end = last;
}

/* Slots that decode `row` shares from the first on with `leader`, in whole strides. */
static int64_t shared(const Batch *b, int64_t page_size, int64_t leader, int64_t row) {
  int64_t x = b->contexts[leader], y = b->contexts[row], least = x < y ? x : y;
  int64_t pages = 0, most = least / page_size;
  while (pages < most && b->tables[leader * b->width + pages] == b->tables[row * b->width + pages])
    pages++;
  return pages * page_size / STRIDE * STRIDE;
}

/* Write the blocks of a step; the first `*before` must be done before the rest begin.

   `leaders` and `common` are room for `decodes` numbers each, `blocks` for 2 * rows.
   Returns how many there are. A window of 0 is none. */
int64_t penstock_plan(const Batch *b, int64_t page_size, int64_t group, int64_t window,
                      int64_t cascade, int64_t *leaders, int64_t *common, Block *blocks,
                      int64_t *before) {
  int64_t most = group >= MOST ? 1 : MOST / group, count = 0;
  /* Decodes with one prefix: each notes the first of them, which notes what all share. */
  for (int64_t row = 0; row < b->decodes; row++) {
    leaders[row] = row;
    common[row] = 0;
    for (int64_t other = 0; cascade && window == 0 && other < row; other++) {
      if (leaders[other] != other) continue;
      int64_t slots = shared(b, page_size, other, row);
      if (slots == 0) continue;
      leaders[row] = other;
      if (common[other] == 0 || slots < common[other]) common[other] = slots;
      break;
    }
  }
  for (int64_t leader = 0; leader < b->decodes; leader++) {
    if (leaders[leader] != leader || common[leader] == 0) continue;
    Block *block = NULL;
    for (int64_t row = leader; row < b->decodes; row++) {
      if (leaders[row] != leader) continue;
      if (block == NULL || block->rows == most) {
        block = &blocks[count++];
        *block = (Block){.table = b->tables + leader * b->width, .end = (int32_t)common[leader],
                         .pauses = 1};
      }
      int at = block->rows++;
      block->row[at] = (int32_t)row;
      block->last[at] = (int32_t)common[leader];
    }
  }
  *before = count;
  for (int64_t row = 0; row < b->decodes; row++) {
    int64_t context = b->contexts[row], done = common[leaders[row]];
    Block *block = &blocks[count++];
    *block = (Block){.table = b->tables + row * b->width, .rows = 1, .resumes = done > 0};
    block->row[0] = (int32_t)row;
    block->first[0] = first_of(context, window);
    block->last[0] = (int32_t)context;
    close_block(block);
    if (done) block->begin = (int32_t)done;
  }
  for (int64_t s = 0; s < b->spans; s++) {
    const int64_t *span = b->span + 4 * s;
    int64_t cached = span[2] - (span[1] - span[0]);
    for (int64_t row = span[0]; row < span[1]; row += most) {
      Block *block = &blocks[count++];
      *block = (Block){.table = (const int64_t *)(intptr_t)span[3]};
      for (int64_t i = row; i < row + most && i < span[1]; i++) {
        int at = block->rows++;
        int64_t context = cached + i - span[0] + 1;
        block->row[at] = (int32_t)i;
        block->first[at] = first_of(context, window);
        block->last[at] = (int32_t)context;
      }
      close_block(block);
    }
  }
  return count;
}

int64_t penstock_block_bytes(void) { return sizeof(Block); }

/* Attending. */

typedef struct {
  const bf16 *q;
  int64_t heads;
  const Pages *pages;
  const Block *blocks;
  int64_t count;
  bf16 *out;    /* [rows][heads][head_dim] */
  float *state; /* [decodes][heads][2 + head_dim]: largest score, sum, weighted values */
  _Atomic int64_t next;
} Attend;

INLINE int32_t four_bytes(const void *from) {
  int32_t x;
  memcpy(&x, from, 4);
  return x;
}

/* Where the slot of number `slot` along a table lies. */
static int64_t slot_of(const Pages *p, int64_t row, const int64_t *table, int64_t slot) {
  return slot_at(p, row, table[slot / p->page_size], slot % p->page_size);
}

/* Some tiles of one KV head. */
typedef struct {
  const uint8_t *k[TILES], *v[TILES], *later[TILES]; /* `later`: K of those that follow */
  const uint8_t *k_scale[TILES], *v_scale[TILES];
  int tiles;
} Run;

static Run run_at(const Pages *p, const Block *b, int64_t kv_head, int32_t slot) {
  int32_t left = (b->end - slot + SLOTS - 1) / SLOTS;
  Run run = {.tiles = left < TILES ? left : TILES};
  int64_t values = p->kv_heads * p->pages * p->page_size;
  for (int t = 0; t < TILES; t++) {
    int64_t k = slot_of(p, kv_head, b->table, slot + (t < run.tiles ? t : 0) * SLOTS);
    run.k[t] = run.later[t] = tile_at(p, k);
    run.v[t] = tile_at(p, k + values);
    run.k_scale[t] = scale_at(p, k);
    run.v_scale[t] = scale_at(p, k + values);
    int32_t next = slot + STRIDE + t * SLOTS;
    if (next < b->end) run.later[t] = tile_at(p, slot_of(p, kv_head, b->table, next));
  }
  return run;
}

/* The scales of a tile's slots. */
INLINE __m512 scales(const int bits, const uint8_t *from) {
  if (bits == 8) return _mm512_loadu_ps((const float *)from);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(from), 16));
}

/* Their middles, which only int4 has. */
INLINE __m512 middles(const uint8_t *from) {
  const __m512i high = _mm512_set1_epi32((int)0xffff0000u);
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from), high));
}

/* The lower or the higher four bits of every byte. */
INLINE __m512i half_of(__m512i both, const int high) {
  if (high) both = _mm512_srli_epi16(both, 4);
  return _mm512_and_si512(both, _mm512_set1_epi8(15));
}

/* A block's queries: bf16, or quantized to bytes. */
typedef struct {
  const uint8_t *at[MOST];
  float scale[MOST]; /* of scores, which are of base 2 */
  int32_t sum[MOST]; /* of the bytes */
} Queries;

/* Add the products of four bytes, or two bf16, of each query with those of 16 keys twice. */
INLINE void add_products(const int queries, const int bits, __m512i k0, __m512i k1,
                         const Queries *q, int64_t at, __m512 sums[][2], __m512i whole[][2]) {
  UNROLL for (int r = 0; r < queries; r++) {
    __m512i x = _mm512_set1_epi32(four_bytes(q->at[r] + at * 4));
    if (bits < 16) {
      dot_bytes(&whole[r][0], k0, x);
      dot_bytes(&whole[r][1], k1, x);
    } else {
      sums[r][0] = _mm512_dpbf16_ps(sums[r][0], (__m512bh)k0, (__m512bh)x);
      sums[r][1] = _mm512_dpbf16_ps(sums[r][1], (__m512bh)k1, (__m512bh)x);
    }
  }
}

/* Products of `queries` with the keys of two tiles from `first` on, scaled. */
INLINE void score(const int queries, const int bits, const Run *run, const int first, int64_t n,
                  const Queries *q, __m512 scores[][TILES]) {
  __m512 sums[MOST][2];
  __m512i whole[MOST][2];
  UNROLL for (int r = 0; r < queries; r++) {
    sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    whole[r][0] = whole[r][1] = _mm512_set1_epi32(bits == 8 ? -128 * q->sum[r] : 0);
  }
  const uint8_t *low = run->k[first], *high = run->k[first + 1];
  for (int64_t step = 0; step < n * bits / 32; step++) {
    __m512i k0 = _mm512_loadu_si512(low + step * 64), k1 = _mm512_loadu_si512(high + step * 64);
    /* Tiles lie far apart: without this, each begins with a wait for memory. */
    for (int t = first; t < first + 2; t++) {
      _mm_prefetch(run->v[t] + step * 64, _MM_HINT_T0);
      _mm_prefetch(run->later[t] + step * 64, _MM_HINT_T1);
    }
    if (bits == 4) {
      add_products(queries, bits, half_of(k0, 0), half_of(k1, 0), q, 2 * step, sums, whole);
      add_products(queries, bits, half_of(k0, 1), half_of(k1, 1), q, 2 * step + 1, sums, whole);
    } else {
      add_products(queries, bits, k0, k1, q, step, sums, whole);
    }
  }
  UNROLL for (int t = 0; t < 2; t++) {
    const uint8_t *at = run->k_scale[first + t];
    __m512 scale = bits < 16 ? scales(bits, at) : _mm512_setzero_ps(), least = scale;
    if (bits == 4) least = _mm512_fnmadd_ps(_mm512_set1_ps(7.5f), scale, middles(at));
    UNROLL for (int r = 0; r < queries; r++) {
      __m512 x = sums[r][t];
      if (bits < 16) x = _mm512_mul_ps(_mm512_cvtepi32_ps(whole[r][t]), scale);
      if (bits == 4) x = _mm512_fmadd_ps(_mm512_set1_ps((float)q->sum[r]), least, x);
      scores[r][first + t] = _mm512_mul_ps(x, _mm512_set1_ps(q->scale[r]));
    }
  }
}

/* Weights of values as bytes, the values' scales taken in. */
typedef struct {
  uint8_t at[MOST][STRIDE];
  float scale[MOST]; /* what one of them is */
  float least[MOST]; /* what values of 0 come to: 0, but for int4 */
} Weights;

INLINE void weights_as_bytes(const int bits, const Run *run, const __m512 *weights, const int r,
                             Weights *to) {
  __m512 w[TILES], most = _mm512_setzero_ps(), middle = most;
  UNROLL for (int t = 0; t < TILES; t++) {
    w[t] = _mm512_mul_ps(weights[t], scales(bits, run->v_scale[t]));
    most = _mm512_max_ps(most, w[t]);
    if (bits == 4) middle = _mm512_fmadd_ps(weights[t], middles(run->v_scale[t]), middle);
  }
  float largest = _mm512_reduce_max_ps(most);
  __m512 inverse = _mm512_set1_ps(largest > 0 ? 255.0f / largest : 0.0f);
  __m512i sum = _mm512_setzero_si512();
  UNROLL for (int t = 0; t < TILES; t++) {
    __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(w[t], inverse));
    sum = _mm512_add_epi32(sum, whole);
    _mm_storeu_si128((__m128i *)(to->at[r] + t * SLOTS), _mm512_cvtusepi32_epi8(whole));
  }
  to->scale[r] = largest / 255.0f;
  to->least[r] = 0.0f;
  /* Of the rounded weights, so that what they are off by is multiplied by u - 7.5, not by u. */
  if (bits == 4)
    to->least[r] = _mm512_reduce_add_ps(middle) -
                   7.5f * to->scale[r] * (float)_mm512_reduce_add_epi32(sum);
}

/* sums = sums * decay + values weighted by `p`, for 16 * wide numbers from `at` on. */
INLINE void add_bf16(const int queries, const int wide, const Run *run, int64_t n, int64_t room,
                     int64_t at, bf16 (*p)[STRIDE], const float *decay, float *sums) {
  __m512 acc[MOST][4];
  UNROLL for (int r = 0; r < queries; r++)
    UNROLL for (int c = 0; c < wide; c++)
      acc[r][c] = _mm512_mul_ps(_mm512_loadu_ps(sums + r * room + at + c * 16),
                                _mm512_set1_ps(decay[r]));
  for (int t = 0; t < run->tiles; t++) {
    const uint8_t *from = run->v[t] + at * 4;
    for (int j = 0; j < SLOTS; j += 2, from += 4 * n) {
      __m512bh values[4];
      UNROLL for (int c = 0; c < wide; c++)
        values[c] = (__m512bh)_mm512_loadu_si512(from + c * 64);
      UNROLL for (int r = 0; r < queries; r++) {
        __m512bh x = (__m512bh)_mm512_set1_epi32(four_bytes(&p[r][t * SLOTS + j]));
        UNROLL for (int c = 0; c < wide; c++)
          acc[r][c] = _mm512_dpbf16_ps(acc[r][c], values[c], x);
      }
    }
  }
  UNROLL for (int r = 0; r < queries; r++)
    UNROLL for (int c = 0; c < wide; c++)
      _mm512_storeu_ps(sums + r * room + at + c * 16, acc[r][c]);
}

/* The same from bytes. In int4 `wide` is even. */
INLINE void add_bytes(const int queries, const int bits, const int wide, const Run *run, int64_t n,
                      int64_t room, int64_t at, const Weights *w, const float *decay,
                      float *sums) {
  const int parts = bits == 4 ? 2 : 1;
  const int64_t width = slot_bytes(bits, n);
  __m512i acc[MOST][4];
  UNROLL for (int r = 0; r < queries; r++)
    UNROLL for (int c = 0; c < wide; c++) acc[r][c] = _mm512_setzero_si512();
  for (int t = 0; t < run->tiles; t++) {
    const uint8_t *from = run->v[t] + at * 4 / parts;
    for (int j = 0; j < SLOTS; j += 4, from += 4 * width) {
      __m512i values[4];
      UNROLL for (int c = 0; c < wide; c++) {
        values[c] = _mm512_loadu_si512(from + c / parts * 64);
        if (bits == 4) values[c] = half_of(values[c], c % 2);
      }
      UNROLL for (int r = 0; r < queries; r++) {
        __m512i x = _mm512_set1_epi32(four_bytes(&w->at[r][t * SLOTS + j]));
        UNROLL for (int c = 0; c < wide; c++) dot_bytes(&acc[r][c], x, values[c]);
      }
    }
  }
  UNROLL for (int r = 0; r < queries; r++)
    UNROLL for (int c = 0; c < wide; c++) {
      float *to = sums + r * room + at + c * 16;
      __m512 old = _mm512_mul_ps(_mm512_loadu_ps(to), _mm512_set1_ps(decay[r]));
      if (bits == 4) old = _mm512_add_ps(old, _mm512_set1_ps(w->least[r]));
      __m512 new = _mm512_cvtepi32_ps(acc[r][c]);
      _mm512_storeu_ps(to, _mm512_fmadd_ps(new, _mm512_set1_ps(w->scale[r]), old));
    }
}

/* Put -infinity in place of what the queries do not see of the tiles from `slot` on. */
INLINE void hide(const int queries, const Block *b, int each, int32_t slot,
                 __m512 scores[][TILES]) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int r = 0; r < queries; r++)
    for (int t = 0; t < TILES; t++) {
      int32_t at = slot + t * SLOTS;
      __mmask16 seen = _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(b->last[r / each] - at)) &
                       _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(b->first[r / each] - at));
      scores[r][t] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, scores[r][t]);
    }
}

/* `queries` heads of a block, `each` of them of one row, from head `head` on. */
INLINE void attend_queries(const int queries, const int bits, const Attend *a, const Block *b,
                           int64_t kv_head, int64_t head, int each) {
  const Pages *pages = a->pages;
  const int64_t n = pages->head_dim;
  const int64_t room = (n + 31) / 32 * 32; /* int4 adds to 32 numbers at once */
  const int wide = queries <= 4 ? 4 : 2, least = bits == 4 ? 2 : 1;
  const float scale = 1.44269504f / sqrtf((float)n);
  Queries q;
  int8_t whole[MOST][MOST_DIM];
  float most[SLOTS] = {0}, total[MOST], *sums = scratch(queries * room * sizeof(float)), *kept[MOST];
  for (int r = 0; r < queries; r++) {
    int64_t at = b->row[r / each] * a->heads + head + r % each;
    q.at[r] = (const uint8_t *)(a->q + at * n);
    q.scale[r] = scale;
    if (bits < 16) {
      float numbers[MOST_DIM];
      widen(a->q + at * n, n, bits, numbers);
      q.scale[r] = scale * quantize(numbers, n, whole[r]);
      q.at[r] = (const uint8_t *)whole[r];
      q.sum[r] = 0;
      for (int64_t i = 0; i < n; i++) q.sum[r] += whole[r][i];
    }
    kept[r] = a->state + at * (2 + n);
    most[r] = b->resumes ? kept[r][0] : -INFINITY;
    total[r] = b->resumes ? kept[r][1] : 0;
    if (b->resumes)
      memcpy(sums + r * room, kept[r] + 2, n * sizeof(float));
    else
      memset(sums + r * room, 0, n * sizeof(float));
  }
  int32_t seen_from = 0, seen_to = INT32_MAX; /* what every one of the queries sees */
  for (int i = 0; i < b->rows; i++) {
    seen_from = b->first[i] > seen_from ? b->first[i] : seen_from;
    seen_to = b->last[i] < seen_to ? b->last[i] : seen_to;
  }
  for (int32_t slot = b->begin; slot < b->end; slot += STRIDE) {
    const Run run = run_at(pages, b, kv_head, slot);
    __m512 scores[MOST][TILES];
    score(queries, bits, &run, 0, n, &q, scores);
    if (run.tiles > 2)
      score(queries, bits, &run, 2, n, &q, scores);
    else
      for (int r = 0; r < queries; r++) scores[r][2] = scores[r][3] = _mm512_setzero_ps();
    if (slot < seen_from || slot + STRIDE > seen_to) hide(queries, b, each, slot, scores);
    float decay[SLOTS], before[SLOTS];
    memcpy(before, most, sizeof most);
    UNROLL for (int r = 0; r < queries; r++) {
      __m512 low = _mm512_max_ps(scores[r][0], scores[r][1]);
      __m512 high = _mm512_max_ps(scores[r][2], scores[r][3]);
      float largest = _mm512_reduce_max_ps(_mm512_max_ps(low, high));
      most[r] = largest > most[r] ? largest : most[r];
    }
    _mm512_storeu_ps(decay, exp2_16(_mm512_sub_ps(_mm512_loadu_ps(before), _mm512_loadu_ps(most))));
    bf16 p[MOST][STRIDE];
    Weights w;
    UNROLL for (int r = 0; r < queries; r++) {
      __m512 sum = _mm512_setzero_ps();
      UNROLL for (int t = 0; t < TILES; t++) {
        scores[r][t] = exp2_16(_mm512_sub_ps(scores[r][t], _mm512_set1_ps(most[r])));
        sum = _mm512_add_ps(sum, scores[r][t]);
        if (bits == 16) store_bf16(p[r] + t * SLOTS, scores[r][t], 0xffff);
      }
      total[r] = total[r] * decay[r] + _mm512_reduce_add_ps(sum);
      if (bits < 16) weights_as_bytes(bits, &run, scores[r], r, &w);
    }
#define ADD(WIDE)                                                                    \
  if (bits < 16) add_bytes(queries, bits, WIDE, &run, n, room, at, &w, decay, sums); \
  else add_bf16(queries, WIDE, &run, n, room, at, p, decay, sums)
    int64_t at = 0;
    for (; at + wide * 16 <= n; at += wide * 16) { ADD(wide); }
    for (; at < n; at += least * 16) { ADD(least); }
#undef ADD
  }
  for (int r = 0; r < queries; r++) {
    if (b->pauses) {
      kept[r][0] = most[r];
      kept[r][1] = total[r];
      memcpy(kept[r] + 2, sums + r * room, n * sizeof(float));
      continue;
    }
    bf16 *out = a->out + (b->row[r / each] * a->heads + head + r % each) * n;
    __m512 over = _mm512_set1_ps(1.0f / total[r]);
    if (bits == 4) hadamard(sums + r * room, n);
    for (int64_t i = 0; i < n; i += 16)
      store_bf16(out + i, _mm512_mul_ps(_mm512_loadu_ps(sums + r * room + i), over), 0xffff);
  }
}

static void attend_some(void *arg, int thread) {
  (void)thread;
  Attend *a = arg;
  int64_t item, group = a->heads / a->pages->kv_heads;
  while ((item = take(&a->next, a->count * a->pages->kv_heads)) >= 0) {
    const Block *b = &a->blocks[item % a->count];
    int64_t kv_head = item / a->count;
    for (int64_t part = 0; part < group; part += MOST) {
      int each = group - part < MOST ? (int)(group - part) : MOST;
      int64_t head = kv_head * group + part;
#define CASE(R)                                         \
  case R:                                               \
    if (a->pages->bits == 16)                           \
      attend_queries(R, 16, a, b, kv_head, head, each); \
    else if (a->pages->bits == 8)                       \
      attend_queries(R, 8, a, b, kv_head, head, each);  \
    else                                                \
      attend_queries(R, 4, a, b, kv_head, head, each);  \
    break;
      switch (b->rows * each) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) }
#undef CASE
    }
  }
}

void penstock_attend(const bf16 *q, int64_t heads, const Pages *pages, const Block *blocks,
                     int64_t before, int64_t count, bf16 *out, float *state) {
  Attend shared = {q, heads, pages, blocks, before, out, state, 0};
  if (before) team_run(attend_some, &shared);
  Attend rest = {q, heads, pages, blocks + before, count - before, out, state, 0};
  if (count > before) team_run(attend_some, &rest);
}
