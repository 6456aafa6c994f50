/* The next token of each row: the largest logit, or the largest once Gumbel noise is added.

   The noise is that of `penstock.engine.sampling`: a hash of key and token. */
#include <math.h>
#include <stdatomic.h>

#include "simd.h"
#include "team.h"

typedef struct {
  const float *logits; /* [rows][vocabulary] */
  int64_t rows, vocabulary;
  const float *temperature; /* 0: without noise */
  const int64_t *keys;
  int64_t *tokens;
  _Atomic int64_t next;
} Draw;

/* ln((1 + t) / (1 - t)) for |t| <= 0.2, from the series of atanh. */
INLINE __m512 twice_atanh(__m512 t) {
  __m512 s = _mm512_mul_ps(t, t);
  __m512 p = _mm512_set1_ps(2.0f / 11);
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(2.0f / 9));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(2.0f / 7));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(2.0f / 5));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(2.0f / 3));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(2.0f));
  return _mm512_mul_ps(p, t);
}

/* ln x for x > 0, and -infinity for 0. */
INLINE __m512 log_16(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  __m512 m = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
  __m512 e = _mm512_getexp_ps(_mm512_div_ps(x, m));
  __m512 t = _mm512_div_ps(_mm512_sub_ps(m, one), _mm512_add_ps(m, one));
  __m512 y = _mm512_fmadd_ps(e, _mm512_set1_ps(0.693147181f), twice_atanh(t));
  __mmask16 none = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LE_OQ);
  return _mm512_mask_blend_ps(none, y, _mm512_set1_ps(-INFINITY));
}

/* -ln(1 - u), exact for small u too. */
INLINE __m512 minus_log1p_minus(__m512 u) {
  __m512 two = _mm512_set1_ps(2.0f);
  __mmask16 small = _mm512_cmp_ps_mask(u, _mm512_set1_ps(0.25f), _CMP_LT_OQ);
  __m512 near = twice_atanh(_mm512_div_ps(u, _mm512_sub_ps(two, u)));
  __m512 far = log_16(_mm512_sub_ps(_mm512_set1_ps(1.0f), u));
  return _mm512_mask_blend_ps(small, _mm512_sub_ps(_mm512_setzero_ps(), far), near);
}

/* Wellons' lowbias32. */
INLINE __m512i mix(__m512i x) {
  x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
  x = _mm512_mullo_epi32(x, _mm512_set1_epi32(0x7FEB352D));
  x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 15));
  x = _mm512_mullo_epi32(x, _mm512_set1_epi32((int)0x846CA68B));
  return _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
}

INLINE __m512 gumbel(__m512i token, int64_t key) {
  __m512i x = mix(_mm512_xor_si512(token, _mm512_set1_epi32((int)(key >> 32))));
  x = mix(_mm512_xor_si512(x, _mm512_set1_epi32((int)key)));
  x = _mm512_and_si512(_mm512_srli_epi32(x, 1), _mm512_set1_epi32(0x3FFFFFFF));
  __m512 u = _mm512_add_ps(_mm512_cvtepi32_ps(x), _mm512_set1_ps(0.5f));
  u = _mm512_mul_ps(u, _mm512_set1_ps(0x1p-30f));
  return _mm512_sub_ps(_mm512_setzero_ps(), log_16(minus_log1p_minus(u)));
}

static int64_t draw_row(const Draw *d, int64_t row) {
  const float *logits = d->logits + row * d->vocabulary;
  __m512 heat = _mm512_set1_ps(d->temperature[row]), best = _mm512_set1_ps(-INFINITY);
  __m512i at = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512i where = at;
  for (int64_t i = 0; i < d->vocabulary; i += 16) {
    __mmask16 mask = lanes(d->vocabulary - i);
    __m512 x = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), mask, logits + i);
    if (d->temperature[row] > 0)
      x = _mm512_add_ps(_mm512_div_ps(x, heat), gumbel(at, d->keys[row]));
    __mmask16 more = _mm512_cmp_ps_mask(x, best, _CMP_GT_OQ);
    best = _mm512_mask_mov_ps(best, more, x);
    where = _mm512_mask_mov_epi32(where, more, at);
    at = _mm512_add_epi32(at, _mm512_set1_epi32(16));
  }
  __mmask16 tops = _mm512_cmp_ps_mask(best, _mm512_set1_ps(_mm512_reduce_max_ps(best)), _CMP_EQ_OQ);
  return _mm512_mask_reduce_min_epi32(tops, where); /* of equal ones the first */
}

static void draw_some(void *arg, int thread) {
  (void)thread;
  Draw *d = arg;
  int64_t row;
  while ((row = take(&d->next, d->rows)) >= 0) d->tokens[row] = draw_row(d, row);
}

void penstock_draw(const float *logits, int64_t rows, int64_t vocabulary, const float *temperature,
                   const int64_t *keys, int64_t *tokens) {
  Draw draw = {logits, rows, vocabulary, temperature, keys, tokens, 0};
  team_run(draw_some, &draw);
}
