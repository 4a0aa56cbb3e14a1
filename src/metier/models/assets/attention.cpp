// Attention inside segments, forward and backward: bfloat16 in and out, float32 sums. See models/fused.py.
//
// Tiles of queries by keys stay in the cache, and what causal attention does not look at is not computed. The products
// are PyTorch's own small ones (brgemm: AMX or AVX-512); the rest is written so that a compiler makes vectors of it.
// Forward keeps a running maximum and sum per query (Milakov and Gimelshein 2018; Dao et al. 2022, FlashAttention).
// Backward makes the weights again from the logarithms of those sums. It works on transposed tiles, keys by queries:
// weights and their slopes are then left operands as they lie, and the queries' gradient is summed transposed.
//
// A left operand lies in rows, a right one in pairs of rows, as bfloat16 instructions want it: (rows / 2, columns, 2).
// Every item of work (a segment with a head, backward with a head of the keys) is computed by one thread, so that
// results do not depend on their number.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

namespace c10 {
struct BFloat16;
}

namespace at::native::cpublas {
void brgemm(int64_t M, int64_t N, int64_t K, int64_t ld_a, int64_t ld_b, int64_t ld_c, const bool add_C,
            const c10::BFloat16* A, const c10::BFloat16* B, float* C, bool is_vnni);
void brgemm_release(bool is_vnni);
}  // namespace at::native::cpublas

namespace {

using Half = uint16_t;

struct Shape {
  int64_t positions, heads, groups, width, window, tile;  // window 0: none
  float scale;
  bool causal;

  // Lengths are filled up, so that the products come in few shapes.
  int64_t pad(int64_t length) const { return length > 64 ? 64 : 16; }
};

// A tensor (rows, positions, heads, width) whose width lies together.
template <typename T>
struct View {
  T* data;
  const int64_t* strides;  // of rows, positions and heads, in elements

  int64_t step() const { return strides[1]; }
  T* at(int64_t row, int64_t start, int64_t head) const {
    return data + row * strides[0] + start * strides[1] + head * strides[2];
  }
};

struct Span {
  int64_t row, start, length;
};

inline float widen(Half x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline uint32_t rounded(float x) {  // bfloat16, to the nearest even, in the upper half
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}

// exp(x) for x <= 88: 2^n times the series of exp(r) to r^6, r within ln 2 / 2 of zero; off by 2e-7 of itself near zero
// and by 2e-6 at -87, below which it stays. The compiler makes one fused operation of each product and sum.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float n = std::nearbyintf(x * 1.4426950f);
  const float r = x - n * 0.69314718f;
  float sum = 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const int32_t power = (static_cast<int32_t>(n) + 127) << 23;
  float two;
  std::memcpy(&two, &power, 4);
  return sum * two;
}

// c (m, n) = a (m, k) · b (k, n), or added to it; b lies in pairs of rows; lda, ldb and ldc: columns to the next row.
void product(int64_t m, int64_t n, int64_t k, const Half* a, int64_t lda, const Half* b, int64_t ldb, float* c,
             int64_t ldc, bool add) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, add, reinterpret_cast<const c10::BFloat16*>(a),
                              reinterpret_cast<const c10::BFloat16*>(b), c, true);
}

// Memory of one thread that is asked for once.
template <typename T>
class Buffer {
 public:
  T* get(int64_t count) {
    if (count > size_) {
      data_.reset(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)));
      size_ = count;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t size_ = 0;
};

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Rows (length, width) with a stride between them to rows (filled, width), zero behind the end.
void copy_rows(const Half* from, int64_t stride, int64_t length, int64_t filled, int64_t width, Half* to) {
  for (int64_t i = 0; i < length; ++i) std::memcpy(to + i * width, from + i * stride, width * sizeof(Half));
  std::memset(to + length * width, 0, (filled - length) * width * sizeof(Half));
}

// The same rows to (width / 2, filled, 2): a right operand that is summed over the width.
void pack_across(const Half* from, int64_t stride, int64_t length, int64_t filled, int64_t width, Half* to) {
  uint32_t* out = reinterpret_cast<uint32_t*>(to);
  for (int64_t i0 = 0; i0 < filled; i0 += 16) {
    for (int64_t d = 0; d < width / 2; ++d) {
      uint32_t* row = out + d * filled + i0;
      for (int64_t i = 0; i < 16; ++i) {
        uint32_t pair = 0;
        if (i0 + i < length) std::memcpy(&pair, from + (i0 + i) * stride + 2 * d, 4);
        row[i] = pair;
      }
    }
  }
}

// The same rows to (filled / 2, width, 2): a right operand that is summed over positions.
void pack_along(const Half* from, int64_t stride, int64_t length, int64_t filled, int64_t width, Half* to) {
  for (int64_t i = 0; i < filled; i += 2) {
    const Half* first = from + i * stride;
    uint32_t* out = reinterpret_cast<uint32_t*>(to + i * width);
    if (i + 1 < length) {
      const Half* second = first + stride;
      for (int64_t d = 0; d < width; ++d) out[d] = first[d] | static_cast<uint32_t>(second[d]) << 16;
    } else if (i < length) {
      for (int64_t d = 0; d < width; ++d) out[d] = first[d];
    } else {
      std::memset(out, 0, width * sizeof(uint32_t));
    }
  }
}

// The same rows to (width, filled).
void transpose(const Half* from, int64_t stride, int64_t length, int64_t filled, int64_t width, Half* to) {
  for (int64_t i0 = 0; i0 < filled; i0 += 16) {
    for (int64_t d = 0; d < width; ++d) {
      Half* row = to + d * filled + i0;
      for (int64_t i = 0; i < 16; ++i) row[i] = i0 + i < length ? from[(i0 + i) * stride + d] : Half{0};
    }
  }
}

// Sums in float32, whose element (position, width) lies at position·step + width·across, scaled, to rows.
void give(const float* from, int64_t step, int64_t across, int64_t length, int64_t width, float scale, Half* to,
          int64_t stride) {
  for (int64_t i = 0; i < length; ++i)
    for (int64_t d = 0; d < width; ++d) to[i * stride + d] = rounded(from[i * step + d * across] * scale) >> 16;
}

// Who sees whom inside a segment: nobody what lies behind its end, nor, where causal, what comes later.
struct Bounds {
  int64_t length, window;
  bool causal;

  // Whether every query from q0 to q1 sees every key from k0 to k1.
  bool all(int64_t q0, int64_t q1, int64_t k0, int64_t k1) const {
    return k1 < length && (!causal || k1 <= q0) && (!window || q1 - k0 < window);
  }
  bool none(int64_t q0, int64_t q1, int64_t k0, int64_t k1) const {
    return (causal && k0 > q1) || (window && q0 - k1 >= window);
  }
};

void hide(float* from, int64_t first, int64_t last, int64_t count) {
  for (int64_t i = std::max<int64_t>(first, 0); i < std::min(last, count); ++i) from[i] = -INFINITY;
}

struct Forward {
  Buffer<Half> q, k, v, weights;
  Buffer<float> scores, out, row;

  void run(const Shape& s, View<const Half> query, View<const Half> key, View<const Half> value, Half* result,
           float* sums, const Span& span, int64_t head) {
    const int64_t D = s.width, group = head / (s.heads / s.groups), length = span.length;
    const int64_t pad = s.pad(length), filled = up(length, pad);
    Half* K = k.get(filled * D);
    Half* V = v.get(filled * D);
    pack_across(key.at(span.row, span.start, group), key.step(), length, filled, D, K);
    pack_along(value.at(span.row, span.start, group), value.step(), length, filled, D, V);
    const int64_t BQ = std::min(s.tile, filled), BK = std::min(4 * s.tile, filled);
    Half* Q = q.get(BQ * D);
    Half* P = weights.get(BQ * BK);
    float* S = scores.get(BQ * BK);
    float* O = out.get(BQ * D);
    float* top = row.get(2 * BQ);
    float* sum = top + BQ;
    const Bounds bounds{length, s.window, s.causal};
    for (int64_t q0 = 0; q0 < length; q0 += BQ) {
      const int64_t nq = std::min(BQ, length - q0), fq = std::min(BQ, filled - q0);
      copy_rows(query.at(span.row, span.start + q0, head), query.step(), nq, fq, D, Q);
      std::fill(top, top + fq, -INFINITY);
      std::fill(sum, sum + fq, 0.0f);
      std::memset(O, 0, fq * D * sizeof(float));
      const int64_t begin = s.window ? std::max<int64_t>(0, q0 - s.window + 1) / BK * BK : 0;
      const int64_t end = s.causal ? std::min(length, q0 + nq) : length;
      for (int64_t k0 = begin; k0 < end; k0 += BK) {
        const int64_t fk = std::min(BK, up(end, pad) - k0);
        product(fq, fk, D, Q, D, K + k0 * 2, filled, S, BK, false);
        const bool whole = bounds.all(q0, q0 + fq - 1, k0, k0 + fk - 1);
        for (int64_t i = 0; i < fq; ++i) {
          float* x = S + i * BK;
          Half* p = P + i * BK;
          if (!whole) {
            const int64_t at = q0 + i;
            if (s.window) hide(x, 0, at - s.window + 1 - k0, fk);
            hide(x, (s.causal ? std::min(length, at + 1) : length) - k0, fk, fk);
          }
          float most = -INFINITY;
#pragma omp simd reduction(max : most)
          for (int64_t j = 0; j < fk; ++j) most = x[j] > most ? x[j] : most;
          most = std::max(top[i], most * s.scale);
          if (most == -INFINITY && std::none_of(x, x + fk, [](float one) { return std::isnan(one); })) {
            // It sees nothing of this tile and saw nothing of those before.
            std::memset(p, 0, fk * sizeof(Half));
            continue;
          }
          float total = 0.0f;
#pragma omp simd reduction(+ : total)
          for (int64_t j = 0; j < fk; ++j) {
            float weight = exponential(x[j] * s.scale - most);
            weight = x[j] == -INFINITY ? 0.0f : weight;
            total += weight;
            p[j] = rounded(weight) >> 16;
          }
          const float shrink = std::exp(top[i] - most);
          if (shrink != 1.0f)
            for (int64_t d = 0; d < D; ++d) O[i * D + d] *= shrink;
          sum[i] = sum[i] * shrink + total;
          top[i] = most;
        }
        product(fq, D, fk, P, BK, V + k0 * D, D, O, D, true);
      }
      for (int64_t i = 0; i < nq; ++i) {
        const int64_t at = (span.row * s.positions + span.start + q0 + i) * s.heads + head;
        for (int64_t d = 0; d < D; ++d) result[at * D + d] = rounded(O[i * D + d] / sum[i]) >> 16;
        sums[at] = top[i] + std::log(sum[i]);
      }
    }
  }
};

struct Backward {
  Buffer<Half> k_rows, v_rows, k_turned, q_across, g_across, q_along, g_along, weights, slopes, slopes_along;
  Buffer<float> scores, gains, q_grad, k_grad, v_grad, row;

  void run(const Shape& s, View<const Half> grad, View<const Half> query, View<const Half> key, View<const Half> value,
           const Half* result, const float* sums, View<Half> grad_q, View<Half> grad_k, View<Half> grad_v,
           const Span& span, int64_t group) {
    const int64_t D = s.width, per_group = s.heads / s.groups, length = span.length;
    const int64_t filled = up(length, s.pad(length)), B = std::min(s.tile, filled);
    Half* K = k_rows.get(filled * D);
    Half* V = v_rows.get(filled * D);
    Half* KT = k_turned.get(filled * D);
    copy_rows(key.at(span.row, span.start, group), key.step(), length, filled, D, K);
    copy_rows(value.at(span.row, span.start, group), value.step(), length, filled, D, V);
    transpose(key.at(span.row, span.start, group), key.step(), length, filled, D, KT);
    float* dK = k_grad.get(filled * D);
    float* dV = v_grad.get(filled * D);
    float* dQ = q_grad.get(filled * D);  // transposed: (width, filled)
    Half* Q_across = q_across.get(filled * D);
    Half* G_across = g_across.get(filled * D);
    Half* Q_along = q_along.get(filled * D);
    Half* G_along = g_along.get(filled * D);
    float* logs = row.get(2 * filled);
    float* dots = logs + filled;
    float* S = scores.get(B * B);
    float* dP = gains.get(B * B);
    Half* P = weights.get(B * B);
    Half* dS = slopes.get(B * B);
    Half* dS_along = slopes_along.get(B * B);
    const Bounds bounds{length, s.window, s.causal};
    std::memset(dK, 0, filled * D * sizeof(float));
    std::memset(dV, 0, filled * D * sizeof(float));
    for (int64_t head = group * per_group; head < (group + 1) * per_group; ++head) {
      const Half* q_from = query.at(span.row, span.start, head);
      const Half* g_from = grad.at(span.row, span.start, head);
      pack_across(q_from, query.step(), length, filled, D, Q_across);
      pack_across(g_from, grad.step(), length, filled, D, G_across);
      pack_along(q_from, query.step(), length, filled, D, Q_along);
      pack_along(g_from, grad.step(), length, filled, D, G_along);
      for (int64_t i = 0; i < length; ++i) {
        const int64_t at = (span.row * s.positions + span.start + i) * s.heads + head;
        const Half* g = g_from + i * grad.step();
        const Half* o = result + at * D;
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t d = 0; d < D; ++d) dot += widen(g[d]) * widen(o[d]);
        dots[i] = dot;
        logs[i] = sums[at];
      }
      for (int64_t i = length; i < filled; ++i) logs[i] = 1e30f, dots[i] = 0.0f;  // next to no weight
      std::memset(dQ, 0, filled * D * sizeof(float));
      for (int64_t k0 = 0; k0 < length; k0 += B) {
        const int64_t fk = std::min(B, filled - k0);
        for (int64_t q0 = s.causal ? k0 : 0; q0 < length; q0 += B) {
          const int64_t fq = std::min(B, filled - q0);
          if (bounds.none(q0, q0 + fq - 1, k0, k0 + fk - 1)) continue;
          product(fk, fq, D, K + k0 * D, D, Q_across + q0 * 2, filled, S, B, false);
          product(fk, fq, D, V + k0 * D, D, G_across + q0 * 2, filled, dP, B, false);
          if (!bounds.all(q0, q0 + fq - 1, k0, k0 + fk - 1)) {
            for (int64_t j = 0; j < fk; ++j) {
              const int64_t at = k0 + j;
              hide(S + j * B, 0, at < length ? (s.causal ? at - q0 : 0) : fq, fq);
              if (s.window) hide(S + j * B, at + s.window - q0, fq, fq);
            }
          }
          const float* log = logs + q0;
          const float* dot = dots + q0;
          for (int64_t j = 0; j < fk; j += 2) {
            const float *s0 = S + j * B, *s1 = s0 + B, *d0 = dP + j * B, *d1 = d0 + B;
            Half *p0 = P + j * B, *p1 = p0 + B, *x0 = dS + j * B, *x1 = x0 + B;
            uint32_t* along = reinterpret_cast<uint32_t*>(dS_along) + j / 2 * B;
#pragma omp simd
            for (int64_t i = 0; i < fq; ++i) {
              float a = exponential(s0[i] * s.scale - log[i]);
              float b = exponential(s1[i] * s.scale - log[i]);
              a = s0[i] == -INFINITY ? 0.0f : a;
              b = s1[i] == -INFINITY ? 0.0f : b;
              p0[i] = rounded(a) >> 16;
              p1[i] = rounded(b) >> 16;
              const uint32_t low = rounded(a * (d0[i] - dot[i])), high = rounded(b * (d1[i] - dot[i]));
              x0[i] = low >> 16;
              x1[i] = high >> 16;
              along[i] = (low >> 16) | (high & 0xffff0000u);
            }
          }
          product(fk, D, fq, P, B, G_along + q0 * D, D, dV + k0 * D, D, true);
          product(fk, D, fq, dS, B, Q_along + q0 * D, D, dK + k0 * D, D, true);
          product(D, fq, fk, KT + k0, filled, dS_along, B, dQ + q0, filled, true);
        }
      }
      give(dQ, 1, filled, length, D, s.scale, grad_q.at(span.row, span.start, head), grad_q.step());
    }
    give(dK, D, 1, length, D, s.scale, grad_k.at(span.row, span.start, group), grad_k.step());
    give(dV, D, 1, length, D, 1.0f, grad_v.at(span.row, span.start, group), grad_v.step());
  }
};

// The longest first, so that threads end together.
std::vector<Span> ordered(const int64_t* given, int64_t count) {
  std::vector<Span> spans(count);
  for (int64_t i = 0; i < count; ++i) spans[i] = {given[3 * i], given[3 * i + 1], given[3 * i + 2]};
  std::stable_sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.length > b.length; });
  return spans;
}

// Computes every span with every head, each in one thread; returns 1 where a product was refused, else 0.
template <typename Work, typename Run>
int each(const std::vector<Span>& spans, int64_t heads, int64_t threads, Run run) {
  std::atomic<int> failed{0};
#pragma omp parallel num_threads(threads)
  {
    Work work;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < static_cast<int64_t>(spans.size()) * heads; ++item) {
      try {
        run(work, spans[item / heads], item % heads);
      } catch (...) {  // nothing may leave a parallel region
        failed = 1;
      }
    }
    try {
      at::native::cpublas::brgemm_release(true);
    } catch (...) {  // nothing was held
    }
  }
  return failed;
}

Shape shape_of(const int64_t* sizes, float scale) {
  return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], scale, sizes[6] != 0};
}

}  // namespace

// Both return 0, or 1 where a product was refused: the results are then worthless.
// sizes: positions, heads, groups, width, window, tile, causal, threads, segments. strides: three of each tensor, in
// the order of the arguments; result and sums lie together. spans: row, start and length of each segment.

extern "C" int metier_attention_forward(const Half* query, const Half* key, const Half* value, Half* result,
                                        float* sums, const int64_t* strides, const int64_t* spans, const int64_t* sizes,
                                        float scale) {
  const Shape shape = shape_of(sizes, scale);
  const auto run = [&](Forward& work, const Span& span, int64_t head) {
    work.run(shape, {query, strides}, {key, strides + 3}, {value, strides + 6}, result, sums, span, head);
  };
  return each<Forward>(ordered(spans, sizes[8]), shape.heads, sizes[7], run);
}

extern "C" int metier_attention_backward(const Half* grad, const Half* query, const Half* key, const Half* value,
                                         const Half* result, const float* sums, Half* grad_q, Half* grad_k,
                                         Half* grad_v, const int64_t* strides, const int64_t* spans,
                                         const int64_t* sizes, float scale) {
  const Shape shape = shape_of(sizes, scale);
  const auto run = [&](Backward& work, const Span& span, int64_t group) {
    work.run(shape, {grad, strides}, {query, strides + 3}, {key, strides + 6}, {value, strides + 9}, result, sums,
             {grad_q, strides + 12}, {grad_k, strides + 15}, {grad_v, strides + 18}, span, group);
  };
  return each<Backward>(ordered(spans, sizes[8]), shape.groups, sizes[7], run);
}
