// Rows of unit length for QK-norm: one launch for queries and keys.
//
//     y[s,j] = x[s,j]/sqrt(q[s])
//     q[s] = sum[j](x[s,j]**2)
//
// blockIdx.y selects the tensor: 0 the queries, 1 the keys. A tensor is (batch, heads, tokens, n) with a contiguous
// last axis. A row belongs to the threads with one threadIdx.y, at most a warp; see runtime/rows.cuh. Numbers per row
// are contiguous.
//
// Derivation (SHA-256 of the map): fd83bd9f90bc43402920e6a470375944deedef859c1b9e894fcdcc94303040fb

#include "runtime/rows.cuh"

extern "C" __global__ void unit_forward(
    const Offset heads,
    const Offset width,
    const Offset q_rows,
    const Offset q_tokens,
    const Element* q_x,
    const Offset q_x_batch,
    const Offset q_x_head,
    const Offset q_x_token,
    Element* q_u,
    const Offset q_u_batch,
    const Offset q_u_head,
    const Offset q_u_token,
    Wide* q_f,
    const Offset k_rows,
    const Offset k_tokens,
    const Element* k_x,
    const Offset k_x_batch,
    const Offset k_x_head,
    const Offset k_x_token,
    Element* k_u,
    const Offset k_u_batch,
    const Offset k_u_head,
    const Offset k_u_token,
    Wide* k_f) {
    const bool keys = blockIdx.y != 0;
    const Offset tokens = keys ? k_tokens : q_tokens;
    const Offset place = Offset(blockIdx.x) * blockDim.y + threadIdx.y;
    const bool inside = place < (keys ? k_rows : q_rows);
    const Offset row = inside ? place : 0;
    const Offset n = inside ? width : 0;  // after the last row a thread takes part in sums without entries
    const Offset token = row % tokens;
    const Offset head = row / tokens % heads;
    const Offset batch = row / tokens / heads;
    const Element* x_row = keys
        ? k_x + batch * k_x_batch + head * k_x_head + token * k_x_token
        : q_x + batch * q_x_batch + head * q_x_head + token * q_x_token;
    Element* u_row = keys
        ? k_u + batch * k_u_batch + head * k_u_head + token * k_u_token
        : q_u + batch * q_u_batch + head * q_u_head + token * q_u_token;
    Wide* f_data = keys ? k_f : q_f;
    Wide peak = 0;
    for (Offset start = V * threadIdx.x; start < n; start += V * blockDim.x) {
        Wide x[V];
        load(x_row, start, n, x);
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= n) break;
            peak = fmax(peak, fabs(x[k]));
        }
    }
    peak = magnitude(row_largest(peak));
    const Wide y_over_peak_factor = Wide(1) / peak;
    const Wide inverse = Wide(1) / peak;
    Wide q = 0;
    for (Offset start = V * threadIdx.x; start < n; start += V * blockDim.x) {
        Wide x[V];
        load(x_row, start, n, x);
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= n) break;
            const Wide y_over_peak = y_over_peak_factor * x[k];
            q += y_over_peak * y_over_peak;  // l2-norm/define-q
        }
    }
    q = row_sum(q);
    const Wide q_or_inf = q == 0 ? infinity() : q;
    const Wide f = inverse / sqrt(q_or_inf);
    for (Offset start = V * threadIdx.x; start < n; start += V * blockDim.x) {
        Wide x[V];
        load(x_row, start, n, x);
        Wide u[V];
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= n) break;
            u[k] = f * x[k];  // l2-norm/forward
        }
        store(u_row, start, n, u);
    }
    if (threadIdx.x == 0 && inside) f_data[row] = f;
}

extern "C" __global__ void unit_backward(
    const Offset heads,
    const Offset width,
    const Offset q_rows,
    const Offset q_tokens,
    const Element* q_g,
    const Offset q_g_batch,
    const Offset q_g_head,
    const Offset q_g_token,
    const Element* q_u,
    const Offset q_u_batch,
    const Offset q_u_head,
    const Offset q_u_token,
    Element* q_dx,
    const Offset q_dx_batch,
    const Offset q_dx_head,
    const Offset q_dx_token,
    const Wide* q_f,
    const Offset k_rows,
    const Offset k_tokens,
    const Element* k_g,
    const Offset k_g_batch,
    const Offset k_g_head,
    const Offset k_g_token,
    const Element* k_u,
    const Offset k_u_batch,
    const Offset k_u_head,
    const Offset k_u_token,
    Element* k_dx,
    const Offset k_dx_batch,
    const Offset k_dx_head,
    const Offset k_dx_token,
    const Wide* k_f) {
    const bool keys = blockIdx.y != 0;
    const Offset tokens = keys ? k_tokens : q_tokens;
    const Offset place = Offset(blockIdx.x) * blockDim.y + threadIdx.y;
    const bool inside = place < (keys ? k_rows : q_rows);
    const Offset row = inside ? place : 0;
    const Offset n = inside ? width : 0;  // after the last row a thread takes part in sums without entries
    const Offset token = row % tokens;
    const Offset head = row / tokens % heads;
    const Offset batch = row / tokens / heads;
    const Element* g_row = keys
        ? k_g + batch * k_g_batch + head * k_g_head + token * k_g_token
        : q_g + batch * q_g_batch + head * q_g_head + token * q_g_token;
    const Element* u_row = keys
        ? k_u + batch * k_u_batch + head * k_u_head + token * k_u_token
        : q_u + batch * q_u_batch + head * q_u_head + token * q_u_token;
    Element* dx_row = keys
        ? k_dx + batch * k_dx_batch + head * k_dx_head + token * k_dx_token
        : q_dx + batch * q_dx_batch + head * q_dx_head + token * q_dx_token;
    const Wide* f_data = keys ? k_f : q_f;
    const Wide f = inside ? f_data[row] : Wide(0);
    Wide gu = 0;
    for (Offset start = V * threadIdx.x; start < n; start += V * blockDim.x) {
        Wide g[V];
        load(g_row, start, n, g);
        Wide u[V];
        load(u_row, start, n, u);
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= n) break;
            gu += g[k] * u[k];
        }
    }
    gu = row_sum(gu);
    const Wide c = f * gu;
    for (Offset start = V * threadIdx.x; start < n; start += V * blockDim.x) {
        Wide g[V];
        load(g_row, start, n, g);
        Wide u[V];
        load(u_row, start, n, u);
        Wide dx[V];
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= n) break;
            dx[k] = f * g[k] - c * u[k];  // l2-norm/backward-dx
        }
        store(dx_row, start, n, dx);
    }
}
