/* Attention over pages, and what comes before it: head norms, rotation, storing K and V.

   K and V are kept in tiles of 16 slots, so that one product instruction serves 16
   slots, or 16 numbers of some slots, and nothing is summed across lanes. In bf16 a
   tile of K is [head_dim / 2][16 slots][2] and a tile of V [8][head_dim][2 slots]; in
   int8 both have 4 for 2, and every slot has a scale for its K and one for its V.

   int8: K is unsigned, k + 128, and queries are quantized, so that scores are whole
   numbers; weights of values are too, 8 bits of the largest in four tiles.

   Queries go through in blocks: the heads that share a KV head, of one row or of
   several that attend the same pages. Decodes that share a prefix are such a block
   for its length, and each resumes alone from there: their sums so far are kept
   between, as between any two tiles (online softmax: Milakov & Gimelshein 2018).
   Tiles are taken four at a time, counted from the first slot, whoever shares a
   block, so a row's result does not depend on its company. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "simd.h"
#include "team.h"

#define SLOTS 16
#define TILES 4 /* taken together */
#define STRIDE (TILES * SLOTS)
#define MOST 8 /* queries of a block */
#define MOST_DIM 512

typedef struct {
  uint8_t *data; /* [2 * kv_heads][pages][page_size * head_dim], K first, in tiles */
  float *scale;  /* [2 * kv_heads][pages][page_size]; NULL: data is bf16 */
  int64_t kv_heads, head_dim, pages, page_size;
} Pages;

/* Where a slot of one head's K or V lies, counted in slots. */
static int64_t slot_at(const Pages *p, int64_t row, int64_t page, int64_t offset) {
  return (row * p->pages + page) * p->page_size + offset;
}

/* The tile that holds it. */
static uint8_t *tile_at(const Pages *p, int64_t slot) {
  return p->data + slot / SLOTS * SLOTS * p->head_dim * (p->scale ? 1 : 2);
}

/* Where the slot of number `slot` along a table lies. */
static int64_t slot_of(const Pages *p, int64_t row, const int64_t *table, int64_t slot) {
  return slot_at(p, row, table[slot / p->page_size], slot % p->page_size);
}

/* Rotation and storing. */

typedef struct {
  const bf16 *y; /* [rows][(heads + 2 * kv_heads) * head_dim], or heads alone */
  int64_t rows, heads;
  int64_t own; /* whether y holds K and V too */
  const float *q_norm, *k_norm; /* [head_dim] or NULL */
  float eps;
  const float *angles; /* [rows][2][head_dim / 2], cosines first */
  const int64_t *slots;
  const Pages *pages;
  bf16 *q; /* [rows][heads][head_dim] */
  int64_t each; /* rows that one thread takes at a time */
  _Atomic int64_t next;
} Place;

static void rotate(const bf16 *from, const float *norm, float eps, const float *angles, int64_t n,
                   bf16 *to) {
  float factor = 1.0f;
  if (norm) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 16) {
      __m512 x = load_bf16(from + i, lanes(n - i));
      sum = _mm512_fmadd_ps(x, x, sum);
    }
    factor = 1.0f / sqrtf(_mm512_reduce_add_ps(sum) / n + eps);
  }
  int64_t half = n / 2;
  for (int64_t i = 0; i < half; i += 16) {
    __mmask16 mask = lanes(half - i);
    __m512 a = load_bf16(from + i, mask), b = load_bf16(from + half + i, mask);
    if (norm) {
      __m512 f = _mm512_set1_ps(factor);
      a = _mm512_mul_ps(_mm512_mul_ps(a, f), _mm512_maskz_loadu_ps(mask, norm + i));
      b = _mm512_mul_ps(_mm512_mul_ps(b, f), _mm512_maskz_loadu_ps(mask, norm + half + i));
    }
    __m512 cos = _mm512_maskz_loadu_ps(mask, angles + i);
    __m512 sin = _mm512_maskz_loadu_ps(mask, angles + half + i);
    store_bf16(to + i, _mm512_fmsub_ps(a, cos, _mm512_mul_ps(b, sin)), mask);
    store_bf16(to + half + i, _mm512_fmadd_ps(b, cos, _mm512_mul_ps(a, sin)), mask);
  }
}

/* Quantize bf16 `from` to signed bytes `to`, n of them, padded to 16; returns the scale. */
static float quantize(const bf16 *from, int64_t n, int8_t *to) {
  __m512 most = _mm512_setzero_ps();
  for (int64_t i = 0; i < n; i += 16)
    most = _mm512_max_ps(most, _mm512_abs_ps(load_bf16(from + i, lanes(n - i))));
  float largest = _mm512_reduce_max_ps(most);
  __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    __m512 x = _mm512_mul_ps(load_bf16(from + i, lanes(n - i)), inverse);
    _mm_storeu_si128((__m128i *)(to + i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
  }
  return largest / 127.0f;
}

static void store_k(const Pages *p, int64_t slot, const bf16 *k) {
  int64_t n = p->head_dim, lane = slot % SLOTS;
  uint8_t *tile = tile_at(p, slot) + lane * 4;
  if (p->scale == NULL) {
    for (int64_t i = 0; i < n; i += 2) memcpy(tile + i / 2 * 64, k + i, 4);
    return;
  }
  int8_t whole[MOST_DIM];
  p->scale[slot] = quantize(k, n, whole);
  for (int64_t i = 0; i < n; i += 4) {
    uint32_t four;
    memcpy(&four, whole + i, 4);
    four ^= 0x80808080u; /* k + 128 */
    memcpy(tile + i / 4 * 64, &four, 4);
  }
}

static void store_v(const Pages *p, int64_t slot, const bf16 *v) {
  int64_t n = p->head_dim, lane = slot % SLOTS;
  if (p->scale == NULL) {
    bf16 *tile = (bf16 *)tile_at(p, slot) + lane / 2 * 2 * n + lane % 2;
    for (int64_t i = 0; i < n; i++) tile[i * 2] = v[i];
    return;
  }
  int8_t whole[MOST_DIM], *tile = (int8_t *)tile_at(p, slot) + lane / 4 * 4 * n + lane % 4;
  p->scale[slot] = quantize(v, n, whole);
  for (int64_t i = 0; i < n; i++) tile[i * 4] = whole[i];
}

static void place_queries(const Place *p, int64_t row, const bf16 *y) {
  int64_t n = p->pages->head_dim;
  for (int64_t h = 0; h < p->heads; h++)
    rotate(y + h * n, p->q_norm, p->eps, p->angles + row * n, n, p->q + (row * p->heads + h) * n);
}

static void place_kv(const Place *p, int64_t row, int64_t head, const bf16 *y) {
  const Pages *pages = p->pages;
  int64_t n = pages->head_dim, kv_heads = pages->kv_heads;
  int64_t page = p->slots[row] / pages->page_size, offset = p->slots[row] % pages->page_size;
  bf16 k[MOST_DIM];
  y += p->heads * n;
  rotate(y + head * n, p->k_norm, p->eps, p->angles + row * n, n, k);
  store_k(pages, slot_at(pages, head, page, offset), k);
  store_v(pages, slot_at(pages, kv_heads + head, page, offset), y + (kv_heads + head) * n);
}

static void place_some(void *arg, int thread) {
  (void)thread;
  Place *p = arg;
  int64_t kv_heads = p->own ? p->pages->kv_heads : 0, block;
  int64_t width = (p->heads + 2 * kv_heads) * p->pages->head_dim;
  while ((block = take(&p->next, (p->rows + p->each - 1) / p->each)) >= 0) {
    int64_t first = block * p->each, last = first + p->each;
    if (last > p->rows) last = p->rows;
    for (int64_t row = first; row < last; row++) place_queries(p, row, p->y + row * width);
    for (int64_t h = 0; h < kv_heads; h++)
      for (int64_t row = first; row < last; row++) place_kv(p, row, h, p->y + row * width);
  }
}

void penstock_place(const bf16 *y, int64_t rows, int64_t heads, int64_t own, const float *q_norm,
                    const float *k_norm, float eps, const float *angles, const int64_t *slots,
                    const Pages *pages, bf16 *q) {
  /* Neighbours of a prompt share tiles: two threads must not write to one in turn. */
  int64_t each = rows >= 2 * SLOTS ? SLOTS : 1;
  Place place = {y, rows, heads, own, q_norm, k_norm, eps, angles, slots, pages, q, each, 0};
  if (rows == 1)
    place_some(&place, 0);
  else
    team_run(place_some, &place);
}

typedef struct {
  const int64_t *positions;
  int64_t rows, half;
  const float *frequencies;
  float *to;
  _Atomic int64_t next;
} Angles;

static void angles_some(void *arg, int thread) {
  (void)thread;
  Angles *a = arg;
  int64_t row;
  while ((row = take(&a->next, a->rows)) >= 0)
    for (int64_t i = 0; i < a->half; i++) {
      float turn = (float)a->positions[row] * a->frequencies[i];
      a->to[row * 2 * a->half + i] = cosf(turn);
      a->to[(row * 2 + 1) * a->half + i] = sinf(turn);
    }
}

/* Rotary angles of each row: cosines, then sines. */
void penstock_angles(const int64_t *positions, int64_t rows, const float *frequencies, int64_t half,
                     float *to) {
  Angles angles = {positions, rows, half, frequencies, to, 0};
  team_run(angles_some, &angles);
}

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

/* Some tiles of one KV head. */
typedef struct {
  const uint8_t *k[TILES], *v[TILES], *later[TILES]; /* `later`: K of those that follow */
  const float *k_scale[TILES], *v_scale[TILES];
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
    if (p->scale) {
      run.k_scale[t] = p->scale + k;
      run.v_scale[t] = p->scale + k + values;
    }
    int32_t next = slot + STRIDE + t * SLOTS;
    if (next < b->end) run.later[t] = tile_at(p, slot_of(p, kv_head, b->table, next));
  }
  return run;
}

/* Products of `queries` with the keys of two tiles from `first` on, scaled. `q` points to
   bf16, or to bytes. */
INLINE void score(const int queries, const int bytes, const Run *run, const int first, int64_t n,
                  const uint8_t *const *q, const float *q_scale, const int32_t *q_offset,
                  __m512 scores[][TILES]) {
  __m512 sums[MOST][2];
  __m512i whole[MOST][2];
  UNROLL for (int r = 0; r < queries; r++) {
    sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    whole[r][0] = whole[r][1] = _mm512_set1_epi32(bytes ? q_offset[r] : 0);
  }
  const uint8_t *low = run->k[first], *high = run->k[first + 1];
  for (int64_t step = 0; step < n / (bytes ? 4 : 2); step++) {
    __m512i k0 = _mm512_loadu_si512(low + step * 64), k1 = _mm512_loadu_si512(high + step * 64);
    /* Tiles lie far apart: without this, each begins with a wait for memory. */
    for (int t = first; t < first + 2; t++) {
      _mm_prefetch(run->v[t] + step * 64, _MM_HINT_T0);
      _mm_prefetch(run->later[t] + step * 64, _MM_HINT_T1);
    }
    UNROLL for (int r = 0; r < queries; r++) {
      __m512i x = _mm512_set1_epi32(four_bytes(q[r] + step * 4));
      if (bytes) {
        dot_bytes(&whole[r][0], k0, x);
        dot_bytes(&whole[r][1], k1, x);
      } else {
        sums[r][0] = _mm512_dpbf16_ps(sums[r][0], (__m512bh)k0, (__m512bh)x);
        sums[r][1] = _mm512_dpbf16_ps(sums[r][1], (__m512bh)k1, (__m512bh)x);
      }
    }
  }
  const __m512 scale = _mm512_set1_ps(1.44269504f / sqrtf((float)n)); /* scores are of base 2 */
  UNROLL for (int t = 0; t < 2; t++) {
    __m512 of_k = bytes ? _mm512_mul_ps(scale, _mm512_loadu_ps(run->k_scale[first + t])) : scale;
    UNROLL for (int r = 0; r < queries; r++) {
      __m512 x = sums[r][t];
      if (bytes) x = _mm512_mul_ps(_mm512_cvtepi32_ps(whole[r][t]), _mm512_set1_ps(q_scale[r]));
      scores[r][first + t] = _mm512_mul_ps(x, of_k);
    }
  }
}

/* sums = sums * decay + values weighted by `p`, for 16 * wide numbers from `at` on. */
INLINE void add_bf16(const int queries, const int wide, const Run *run, int64_t n, int64_t at,
                     bf16 (*p)[STRIDE], const float *decay, float *sums) {
  __m512 acc[MOST][4];
  UNROLL for (int r = 0; r < queries; r++)
    UNROLL for (int c = 0; c < wide; c++)
      acc[r][c] = _mm512_mul_ps(_mm512_loadu_ps(sums + r * n + at + c * 16),
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
      _mm512_storeu_ps(sums + r * n + at + c * 16, acc[r][c]);
}

/* The same from bytes: `p` are bytes too, of which `scale` is one. */
INLINE void add_int8(const int queries, const int wide, const Run *run, int64_t n, int64_t at,
                     uint8_t (*p)[STRIDE], const float *scale, const float *decay, float *sums) {
  __m512i acc[MOST][4];
  UNROLL for (int r = 0; r < queries; r++)
    UNROLL for (int c = 0; c < wide; c++) acc[r][c] = _mm512_setzero_si512();
  for (int t = 0; t < run->tiles; t++) {
    const uint8_t *from = run->v[t] + at * 4;
    for (int j = 0; j < SLOTS; j += 4, from += 4 * n) {
      __m512i values[4];
      UNROLL for (int c = 0; c < wide; c++) values[c] = _mm512_loadu_si512(from + c * 64);
      UNROLL for (int r = 0; r < queries; r++) {
        __m512i x = _mm512_set1_epi32(four_bytes(&p[r][t * SLOTS + j]));
        UNROLL for (int c = 0; c < wide; c++) dot_bytes(&acc[r][c], x, values[c]);
      }
    }
  }
  UNROLL for (int r = 0; r < queries; r++)
    UNROLL for (int c = 0; c < wide; c++) {
      float *to = sums + r * n + at + c * 16;
      __m512 old = _mm512_mul_ps(_mm512_loadu_ps(to), _mm512_set1_ps(decay[r]));
      __m512 new = _mm512_cvtepi32_ps(acc[r][c]);
      _mm512_storeu_ps(to, _mm512_fmadd_ps(new, _mm512_set1_ps(scale[r]), old));
    }
}

/* Weights of values as bytes, the values' scales taken in; returns what one is. */
INLINE float weights_as_bytes(const Run *run, const __m512 *weights, uint8_t *to) {
  __m512 w[TILES], most = _mm512_setzero_ps();
  UNROLL for (int t = 0; t < TILES; t++) {
    w[t] = _mm512_mul_ps(weights[t], _mm512_loadu_ps(run->v_scale[t]));
    most = _mm512_max_ps(most, w[t]);
  }
  float largest = _mm512_reduce_max_ps(most);
  __m512 inverse = _mm512_set1_ps(largest > 0 ? 255.0f / largest : 0.0f);
  UNROLL for (int t = 0; t < TILES; t++) {
    __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(w[t], inverse));
    _mm_storeu_si128((__m128i *)(to + t * SLOTS), _mm512_cvtusepi32_epi8(whole));
  }
  return largest / 255.0f;
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
INLINE void attend_queries(const int queries, const int bytes, const Attend *a, const Block *b,
                           int64_t kv_head, int64_t head, int each) {
  const Pages *pages = a->pages;
  const int64_t n = pages->head_dim;
  const int wide = queries <= 4 ? 4 : 2;
  const uint8_t *q[MOST];
  int8_t whole[MOST][MOST_DIM];
  float q_scale[MOST];
  int32_t q_offset[MOST];
  float most[SLOTS] = {0}, total[MOST], *sums = scratch(queries * n * sizeof(float)), *kept[MOST];
  for (int r = 0; r < queries; r++) {
    int64_t at = b->row[r / each] * a->heads + head + r % each;
    q[r] = (const uint8_t *)(a->q + at * n);
    if (bytes) {
      q_scale[r] = quantize(a->q + at * n, n, whole[r]);
      q[r] = (const uint8_t *)whole[r];
      q_offset[r] = 0;
      for (int64_t i = 0; i < n; i++) q_offset[r] -= 128 * whole[r][i];
    }
    kept[r] = a->state + at * (2 + n);
    most[r] = b->resumes ? kept[r][0] : -INFINITY;
    total[r] = b->resumes ? kept[r][1] : 0;
    if (b->resumes)
      memcpy(sums + r * n, kept[r] + 2, n * sizeof(float));
    else
      memset(sums + r * n, 0, n * sizeof(float));
  }
  int32_t seen_from = 0, seen_to = INT32_MAX; /* what every one of the queries sees */
  for (int i = 0; i < b->rows; i++) {
    seen_from = b->first[i] > seen_from ? b->first[i] : seen_from;
    seen_to = b->last[i] < seen_to ? b->last[i] : seen_to;
  }
  for (int32_t slot = b->begin; slot < b->end; slot += STRIDE) {
    const Run run = run_at(pages, b, kv_head, slot);
    __m512 scores[MOST][TILES];
    score(queries, bytes, &run, 0, n, q, q_scale, q_offset, scores);
    if (run.tiles > 2)
      score(queries, bytes, &run, 2, n, q, q_scale, q_offset, scores);
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
    uint8_t p8[MOST][STRIDE];
    float p_scale[MOST];
    UNROLL for (int r = 0; r < queries; r++) {
      __m512 sum = _mm512_setzero_ps();
      UNROLL for (int t = 0; t < TILES; t++) {
        scores[r][t] = exp2_16(_mm512_sub_ps(scores[r][t], _mm512_set1_ps(most[r])));
        sum = _mm512_add_ps(sum, scores[r][t]);
        if (!bytes) store_bf16(p[r] + t * SLOTS, scores[r][t], 0xffff);
      }
      total[r] = total[r] * decay[r] + _mm512_reduce_add_ps(sum);
      if (bytes) p_scale[r] = weights_as_bytes(&run, scores[r], p8[r]);
    }
#define ADD(WIDE) \
  if (bytes) add_int8(queries, WIDE, &run, n, at, p8, p_scale, decay, sums); \
  else add_bf16(queries, WIDE, &run, n, at, p, decay, sums)
    int64_t at = 0;
    for (; at + wide * 16 <= n; at += wide * 16) { ADD(wide); }
    for (; at < n; at += 16) { ADD(1); }
#undef ADD
  }
  for (int r = 0; r < queries; r++) {
    if (b->pauses) {
      kept[r][0] = most[r];
      kept[r][1] = total[r];
      memcpy(kept[r] + 2, sums + r * n, n * sizeof(float));
      continue;
    }
    bf16 *out = a->out + (b->row[r / each] * a->heads + head + r % each) * n;
    __m512 over = _mm512_set1_ps(1.0f / total[r]);
    for (int64_t i = 0; i < n; i += 16)
      store_bf16(out + i, _mm512_mul_ps(_mm512_loadu_ps(sums + r * n + i), over), 0xffff);
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
#define CASE(R)                                                     \
  case R:                                                           \
    if (a->pages->scale)                                            \
      attend_queries(R, 1, a, b, kv_head, head, each);              \
    else                                                            \
      attend_queries(R, 0, a, b, kv_head, head, each);              \
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
