// norm-like: z[s,i] = f[s]*sum[j](W[i,j]*x[s,j]) + b[i].
//
// Where:
//
//     f[s] = sqrt(kappa - 1)/sqrt(E[s])
//     E[s] = sum[j](x[s,j]**2)
//
// Each kernel does what its name ends in. `Element` is the type of the input, `Wide` at least float: see
// runtime/rows.cuh, which also says how rows are shared among threads. Products of matrices are not done here.
//
// Derivation (SHA-256 of the map): 066ad2a7d1abe914408dd39ad9cb832cb3cf1179193d8da99240086f42663443

#include "runtime/rows.cuh"

extern "C" __global__ void norm_like_f(
    const Offset rows,
    const Offset n,
    const Element* x_data,
    const Offset x_stride,
    Wide* f_data,
    const Offset f_stride,
    Wide* f_u_data,
    const Offset f_u_stride,
    const double kappa_setting) {
    const Offset row = Offset(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const Element* x_row = x_data + row * x_stride;
    const Wide kappa = Wide(kappa_setting);
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
    const Wide y_factor = Wide(1) / peak;
    Wide q = 0;
    for (Offset start = V * threadIdx.x; start < n; start += V * blockDim.x) {
        Wide x[V];
        load(x_row, start, n, x);
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= n) break;
            const Wide y = y_factor * x[k];
            q += y * y;  // norm-like/define-E
        }
    }
    q = row_sum(q);
    const Wide q_or_inf = q == 0 ? infinity() : q;
    const Wide unit = unit_of(peak);
    const Wide peak_u = peak * unit;
    const Wide f_u = sqrt(kappa - 1) / (peak_u * sqrt(q_or_inf));
    const Wide f = f_u * unit;  // norm-like/define-f
    if (threadIdx.x == 0) f_data[row * f_stride] = f;
    if (threadIdx.x == 0) f_u_data[row * f_u_stride] = f_u;
}

extern "C" __global__ void norm_like_z(
    const Offset rows,
    const Offset m,
    const Element* b_data,
    const Wide* f_data,
    const Offset f_stride,
    const Wide* xW_data,
    const Offset xW_stride,
    Element* z_data,
    const Offset z_stride,
    const Wide* f_u_data,
    const Offset f_u_stride,
    const Element* x_data,
    const Offset x_stride,
    const Element* W_data,
    const Offset W_stride,
    const Offset n) {
    const Offset row = Offset(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const Element* b_row = b_data;
    const Wide* xW_row = xW_data + row * xW_stride;
    Element* z_row = z_data + row * z_stride;
    const Wide f = f_data[row * f_stride];
    const Wide f_u = f_u_data[row * f_u_stride];
    if (f_u > f) {  // far: recompute its product, which may have overflowed, in the row's unit
        const Wide unit = far_unit();
        const Element* x_row = x_data + row * x_stride;
        for (Offset start = 0; start < m; ++start) {
            const Element* W_row = W_data + start * W_stride;
            Wide xW = 0;
            for (Offset k = threadIdx.x; k < n; k += blockDim.x) {
                xW += widen(W_row[k]) * (unit * widen(x_row[k]));
            }
            xW = row_sum(xW);
            const Wide b = widen(b_row[start]);
            const Wide z = b + f_u * xW;  // norm-like/forward
            if (threadIdx.x == 0) z_row[start] = narrow<Element>(z);
        }
        return;
    }
    for (Offset start = V * threadIdx.x; start < m; start += V * blockDim.x) {
        Wide b[V];
        load(b_row, start, m, b);
        Wide xW[V];
        load(xW_row, start, m, xW);
        Wide z[V];
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= m) break;
            z[k] = b[k] + f * xW[k];  // norm-like/forward
        }
        store(z_row, start, m, z);
    }
}

extern "C" __global__ void norm_like_u_dx(
    const Offset rows,
    const Offset n,
    const Element* x_data,
    const Offset x_stride,
    const Wide* f_data,
    const Offset f_stride,
    const Wide* gW_data,
    const Offset gW_stride,
    Element* u_data,
    const Offset u_stride,
    Element* dx_data,
    const Offset dx_stride,
    const double kappa_setting) {
    const Offset row = Offset(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const Element* x_row = x_data + row * x_stride;
    const Wide* gW_row = gW_data + row * gW_stride;
    Element* u_row = u_data + row * u_stride;
    Element* dx_row = dx_data + row * dx_stride;
    const Wide kappa = Wide(kappa_setting);
    const Wide f = f_data[row * f_stride];
    Wide u_gW = 0;
    for (Offset start = V * threadIdx.x; start < n; start += V * blockDim.x) {
        Wide x[V];
        load(x_row, start, n, x);
        Wide gW[V];
        load(gW_row, start, n, gW);
        Wide u[V];
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= n) break;
            u[k] = f * x[k];
            u_gW += u[k] * gW[k];
        }
        store(u_row, start, n, u);
    }
    u_gW = row_sum(u_gW);
    const Wide c = f * u_gW / (kappa - 1);
    for (Offset start = V * threadIdx.x; start < n; start += V * blockDim.x) {
        Wide x[V];
        load(x_row, start, n, x);
        Wide gW[V];
        load(gW_row, start, n, gW);
        Wide dx[V];
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= n) break;
            const Wide u = f * x[k];
            dx[k] = f * gW[k] - c * u;  // norm-like/backward-dx
        }
        store(dx_row, start, n, dx);
    }
}

extern "C" __global__ void norm_like_dx(
    const Offset rows,
    const Offset n,
    const Element* x_data,
    const Offset x_stride,
    const Wide* f_data,
    const Offset f_stride,
    const Wide* gW_data,
    const Offset gW_stride,
    Element* dx_data,
    const Offset dx_stride,
    const double kappa_setting) {
    const Offset row = Offset(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const Element* x_row = x_data + row * x_stride;
    const Wide* gW_row = gW_data + row * gW_stride;
    Element* dx_row = dx_data + row * dx_stride;
    const Wide kappa = Wide(kappa_setting);
    const Wide f = f_data[row * f_stride];
    Wide u_gW = 0;
    for (Offset start = V * threadIdx.x; start < n; start += V * blockDim.x) {
        Wide x[V];
        load(x_row, start, n, x);
        Wide gW[V];
        load(gW_row, start, n, gW);
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= n) break;
            const Wide u = f * x[k];
            u_gW += u * gW[k];
        }
    }
    u_gW = row_sum(u_gW);
    const Wide c = f * u_gW / (kappa - 1);
    for (Offset start = V * threadIdx.x; start < n; start += V * blockDim.x) {
        Wide x[V];
        load(x_row, start, n, x);
        Wide gW[V];
        load(gW_row, start, n, gW);
        Wide dx[V];
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= n) break;
            const Wide u = f * x[k];
            dx[k] = f * gW[k] - c * u;  // norm-like/backward-dx
        }
        store(dx_row, start, n, dx);
    }
}

extern "C" __global__ void norm_like_u(
    const Offset rows,
    const Offset n,
    const Element* x_data,
    const Offset x_stride,
    const Wide* f_data,
    const Offset f_stride,
    Element* u_data,
    const Offset u_stride) {
    const Offset row = Offset(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const Element* x_row = x_data + row * x_stride;
    Element* u_row = u_data + row * u_stride;
    const Wide f = f_data[row * f_stride];
    for (Offset start = V * threadIdx.x; start < n; start += V * blockDim.x) {
        Wide x[V];
        load(x_row, start, n, x);
        Wide u[V];
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= n) break;
            u[k] = f * x[k];
        }
        store(u_row, start, n, u);
    }
}

// Sums over the rows of a chunk; norm_like_db_total adds the chunks up.
extern "C" __global__ void norm_like_db(
    const Offset rows,
    const Offset m,
    const Element* g_data,
    const Offset g_stride,
    const Offset chunk,
    Wide* partial) {
    const Offset column = Offset(blockIdx.x) * blockDim.x + threadIdx.x;
    const Offset first = chunk * blockIdx.y;
    const Offset last = first + chunk < rows ? first + chunk : rows;
    Wide sum = 0;
    for (Offset row = first + threadIdx.y; row < last && column < m; row += blockDim.y) {
        const Wide g = widen(g_data[row * g_stride + column]);
        sum += g;  // norm-like/backward-db
    }
    sum = column_sum(sum);
    if (threadIdx.y == 0 && column < m) partial[blockIdx.y * m + column] = sum;
}

extern "C" __global__ void norm_like_db_total(
    const Offset chunks,
    const Offset width,
    const Wide* partial,
    Element* total) {
    const Offset column = Offset(blockIdx.x) * blockDim.x + threadIdx.x;
    Wide sum = 0;
    for (Offset chunk = threadIdx.y; chunk < chunks && column < width; chunk += blockDim.y) {
        sum += partial[chunk * width + column];
    }
    sum = column_sum(sum);
    if (threadIdx.y == 0 && column < width) total[column] = narrow<Element>(sum);
}
