// affine-like: z[s,i] = f[s]*(sum[j](W[i,j]*x[s,j]) + b[i]).
//
// Where:
//
//     f[s] = sqrt(kappa)/sqrt(E[s] + 1)
//     E[s] = sum[j](x[s,j]**2)
//
// Each kernel does what its name ends in. `Element` is the type of the input, and so is `Wide`: see runtime/rows.h,
// which also says how rows are shared among threads. Products of matrices are not done here.
//
// Derivation (SHA-256 of the map): cfad222b6c6579e09d9aae903bf1bb454998140b6ced7f579358baf89578781d

#include "runtime/python.h"
#include "runtime/rows.h"

namespace kernels {

TELLS affine_like_f_z(
    const Offset rows,
    const Offset n,
    const Offset m,
    const Element* x_data,
    const Element* b_data,
    const Element* xW_data,
    Wide* f_data,
    Element* z_data,
    const double kappa_setting,
    const int threads) {
    const Wide kappa = Wide(kappa_setting);
    int far = 0;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(| : far)
    for (Offset row = 0; row < rows; ++row) {
        const Element* x_row = x_data + row * n;
        const Element* b_row = b_data;
        const Element* xW_row = xW_data + row * m;
        Element* z_row = z_data + row * m;
        ahead(x_row, n);
        ahead(xW_row, m);
        Wide peak = 1;  // for nearly every row; if a sum is out of range, a power of two near the largest entry
        Wide q;
        for (bool divided = false;; divided = true) {
            const Wide y_factor = Wide(1) / peak;
            q = 0;
            {
                const Element* const x = x_row;
                double q_total = 0;
                for (Offset start = 0; start < n; start += ADDED) {
                    const Offset end = start + ADDED < n ? start + ADDED : n;
                    q = 0;
#pragma omp simd reduction(+ : q)
                    for (Offset k = start; k < end; ++k) {
                        const Wide y = y_factor * x[k];
                        q += y * y;  // affine-like/define-E
                    }
                    q_total += q;
                }
                q = Wide(q_total);
            }
            q = row_sum(q);
            if (divided || in_range(q)) break;
            peak = 0;
            {
                const Element* const x = x_row;
#pragma omp simd reduction(max : peak)
                for (Offset k = 0; k < n; ++k) {
                    peak = fmax(peak, fabs(x[k]));
                }
            }
            peak = magnitude(row_largest(peak));
        }
        far |= peak > 1;
        const Wide f = sqrt(kappa) / (peak * sqrt(q + Wide(1) / (peak * peak)));  // affine-like/define-f
        {
            const Element* const b = b_row;
            const Element* const xW = xW_row;
            Element* const z = z_row;
#pragma omp simd
            for (Offset k = 0; k < m; ++k) {
                z[k] = f * (b[k] + xW[k]);  // affine-like/forward
            }
        }
        f_data[row] = f;
    }
    return far;
}

KERNEL affine_like_given_gb_dx(
    const Offset rows,
    const Offset n,
    const Element* x_data,
    const Wide* f_data,
    const Wide* gb_data,
    const Element* gW_data,
    Element* dx_data,
    const double kappa_setting,
    const int threads) {
    const Wide kappa = Wide(kappa_setting);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (Offset row = 0; row < rows; ++row) {
        const Element* x_row = x_data + row * n;
        const Element* gW_row = gW_data + row * n;
        Element* dx_row = dx_data + row * n;
        ahead(x_row, n);
        ahead(gW_row, n);
        const Wide f = f_data[row];
        const Wide gb = gb_data[row];
        Wide u_gW = 0;
        {
            const Element* const x = x_row;
            const Element* const gW = gW_row;
            double u_gW_total = 0;
            for (Offset start = 0; start < n; start += ADDED) {
                const Offset end = start + ADDED < n ? start + ADDED : n;
                u_gW = 0;
#pragma omp simd reduction(+ : u_gW)
                for (Offset k = start; k < end; ++k) {
                    const Wide u = f * x[k];
                    u_gW += u * gW[k];
                }
                u_gW_total += u_gW;
            }
            u_gW = Wide(u_gW_total);
        }
        u_gW = row_sum(u_gW);
        const Wide c = f * (f * gb + u_gW) / kappa;
        {
            const Element* const x = x_row;
            const Element* const gW = gW_row;
            Element* const dx = dx_row;
#pragma omp simd
            for (Offset k = 0; k < n; ++k) {
                const Wide u = f * x[k];
                dx[k] = f * gW[k] - c * u;  // affine-like/backward-dx
            }
        }
    }
}

KERNEL affine_like_u(
    const Offset rows,
    const Offset n,
    const Element* x_data,
    const Wide* f_data,
    Element* u_data,
    const int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (Offset row = 0; row < rows; ++row) {
        const Element* x_row = x_data + row * n;
        Element* u_row = u_data + row * n;
        ahead(x_row, n);
        const Wide f = f_data[row];
        {
            const Element* const x = x_row;
            Element* const u = u_row;
#pragma omp simd
            for (Offset k = 0; k < n; ++k) {
                u[k] = f * x[k];
            }
        }
    }
}

KERNEL affine_like_dx(
    const Offset rows,
    const Offset m,
    const Offset n,
    const Element* g_data,
    const Element* x_data,
    const Element* b_data,
    const Wide* f_data,
    const Element* gW_data,
    Element* dx_data,
    const double kappa_setting,
    const int threads) {
    const Wide kappa = Wide(kappa_setting);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (Offset row = 0; row < rows; ++row) {
        const Element* g_row = g_data + row * m;
        const Element* x_row = x_data + row * n;
        const Element* b_row = b_data;
        const Element* gW_row = gW_data + row * n;
        Element* dx_row = dx_data + row * n;
        ahead(g_row, m);
        ahead(x_row, n);
        ahead(gW_row, n);
        const Wide f = f_data[row];
        Wide gb = 0;
        {
            const Element* const g = g_row;
            const Element* const b = b_row;
            double gb_total = 0;
            for (Offset start = 0; start < m; start += ADDED) {
                const Offset end = start + ADDED < m ? start + ADDED : m;
                gb = 0;
#pragma omp simd reduction(+ : gb)
                for (Offset k = start; k < end; ++k) {
                    gb += g[k] * b[k];
                }
                gb_total += gb;
            }
            gb = Wide(gb_total);
        }
        gb = row_sum(gb);
        Wide u_gW = 0;
        {
            const Element* const x = x_row;
            const Element* const gW = gW_row;
            double u_gW_total = 0;
            for (Offset start = 0; start < n; start += ADDED) {
                const Offset end = start + ADDED < n ? start + ADDED : n;
                u_gW = 0;
#pragma omp simd reduction(+ : u_gW)
                for (Offset k = start; k < end; ++k) {
                    const Wide u = f * x[k];
                    u_gW += u * gW[k];
                }
                u_gW_total += u_gW;
            }
            u_gW = Wide(u_gW_total);
        }
        u_gW = row_sum(u_gW);
        const Wide c = f * (f * gb + u_gW) / kappa;
        {
            const Element* const x = x_row;
            const Element* const gW = gW_row;
            Element* const dx = dx_row;
#pragma omp simd
            for (Offset k = 0; k < n; ++k) {
                const Wide u = f * x[k];
                dx[k] = f * gW[k] - c * u;  // affine-like/backward-dx
            }
        }
    }
}

TELLS affine_like_f_u(
    const Offset rows,
    const Offset n,
    const Element* x_data,
    Wide* f_data,
    Element* u_data,
    const double kappa_setting,
    const int threads) {
    const Wide kappa = Wide(kappa_setting);
    int far = 0;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(| : far)
    for (Offset row = 0; row < rows; ++row) {
        const Element* x_row = x_data + row * n;
        Element* u_row = u_data + row * n;
        ahead(x_row, n);
        Wide peak = 1;  // for nearly every row; if a sum is out of range, a power of two near the largest entry
        Wide q;
        for (bool divided = false;; divided = true) {
            const Wide y_factor = Wide(1) / peak;
            q = 0;
            {
                const Element* const x = x_row;
                double q_total = 0;
                for (Offset start = 0; start < n; start += ADDED) {
                    const Offset end = start + ADDED < n ? start + ADDED : n;
                    q = 0;
#pragma omp simd reduction(+ : q)
                    for (Offset k = start; k < end; ++k) {
                        const Wide y = y_factor * x[k];
                        q += y * y;  // affine-like/define-E
                    }
                    q_total += q;
                }
                q = Wide(q_total);
            }
            q = row_sum(q);
            if (divided || in_range(q)) break;
            peak = 0;
            {
                const Element* const x = x_row;
#pragma omp simd reduction(max : peak)
                for (Offset k = 0; k < n; ++k) {
                    peak = fmax(peak, fabs(x[k]));
                }
            }
            peak = magnitude(row_largest(peak));
        }
        far |= peak > 1;
        const Wide f = sqrt(kappa) / (peak * sqrt(q + Wide(1) / (peak * peak)));  // affine-like/define-f
        {
            const Element* const x = x_row;
            Element* const u = u_row;
#pragma omp simd
            for (Offset k = 0; k < n; ++k) {
                u[k] = f * x[k];
            }
        }
        f_data[row] = f;
    }
    return far;
}

KERNEL affine_like_z(
    const Offset rows,
    const Offset m,
    const Element* b_data,
    const Wide* f_data,
    const Element* uW_data,
    Element* z_data,
    const int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (Offset row = 0; row < rows; ++row) {
        const Element* b_row = b_data;
        const Element* uW_row = uW_data + row * m;
        Element* z_row = z_data + row * m;
        ahead(uW_row, m);
        const Wide f = f_data[row];
        {
            const Element* const b = b_row;
            const Element* const uW = uW_row;
            Element* const z = z_row;
#pragma omp simd
            for (Offset k = 0; k < m; ++k) {
                z[k] = b[k] * f + uW[k];  // affine-like/forward
            }
        }
    }
}

KERNEL affine_like_gb_u_db(
    const Offset rows,
    const Offset m,
    const Offset n,
    const Element* g_data,
    const Element* x_data,
    const Element* b_data,
    const Wide* f_data,
    Wide* gb_data,
    Element* u_data,
    Element* total,
    const int threads) {
    over_rows(rows, m, threads, total, [&](const Offset row, Wide* const sums) {
        const Element* g_row = g_data + row * m;
        const Element* x_row = x_data + row * n;
        const Element* b_row = b_data;
        Element* u_row = u_data + row * n;
        ahead(g_row, m);
        ahead(x_row, n);
        const Wide f = f_data[row];
        Wide gb = 0;
        {
            const Element* const g = g_row;
            const Element* const b = b_row;
            double gb_total = 0;
            for (Offset start = 0; start < m; start += ADDED) {
                const Offset end = start + ADDED < m ? start + ADDED : m;
                gb = 0;
#pragma omp simd reduction(+ : gb)
                for (Offset k = start; k < end; ++k) {
                    gb += g[k] * b[k];
                }
                gb_total += gb;
            }
            gb = Wide(gb_total);
        }
        gb = row_sum(gb);
        {
            const Element* const x = x_row;
            Element* const u = u_row;
#pragma omp simd
            for (Offset k = 0; k < n; ++k) {
                u[k] = f * x[k];
            }
        }
        gb_data[row] = gb;
#pragma omp simd
        for (Offset column = 0; column < m; ++column) {
            Wide sum = 0;
            const Wide g = widen(g_data[row * m + column]);
            const Wide f = widen(f_data[row]);
            sum += f * g;  // affine-like/backward-db
            sums[column] += sum;
        }
    });
}

KERNEL affine_like_db(
    const Offset rows,
    const Offset m,
    const Element* g_data,
    const Wide* f_data,
    Element* total,
    const int threads) {
    over_columns(rows, m, threads, total, [&](const auto group, const Offset first, Wide* const sums) {
#pragma omp simd
        for (Offset column = 0; column < m; ++column) {
            Wide sum = 0;
            for (Offset row = first; row < first + group.rows; ++row) {
                const Wide g = widen(g_data[row * m + column]);
                const Wide f = widen(f_data[row]);
                sum += f * g;  // affine-like/backward-db
            }
            sums[column] += sum;
        }
    });
}

}  // namespace kernels

FUNCTIONS(
    FUNCTION(affine_like_f_z), FUNCTION(affine_like_gb_u_db), FUNCTION(affine_like_given_gb_dx),
    FUNCTION(affine_like_u), FUNCTION(affine_like_db), FUNCTION(affine_like_dx), FUNCTION(affine_like_f_u),
    FUNCTION(affine_like_z))
