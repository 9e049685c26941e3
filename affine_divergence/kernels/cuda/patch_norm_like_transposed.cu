// norm-like (normalising) transposed convolution.
//
//     z[s,g,o,qh,qw] = f[s,g,qh,qw]*sum[j,k,l](W[g,j,o,k,l]*x[s,g,j,qh/strideh + paddingh/strideh -
//     dilationh*k/strideh,qw/stridew + paddingw/stridew - dilationw*l/stridew]*divides(strideh, qh + paddingh -
//     dilationh*k)*divides(stridew, qw + paddingw - dilationw*l)*within(qh/strideh + paddingh/strideh -
//     dilationh*k/strideh, Lh)*within(qw/stridew + paddingw/stridew - dilationw*l/stridew, Lw)) + b[g,o]
//     f[s,g,qh,qw] = sqrt(kappa - 1)/sqrt(E[s,g,qh,qw])
//     E[s,g,qh,qw] = sum[j,k,l](x[s,g,j,qh/strideh + paddingh/strideh - dilationh*k/strideh,qw/stridew + paddingw/stridew -
//     dilationw*l/stridew]**2*divides(strideh, qh + paddingh - dilationh*k)*divides(stridew, qw + paddingw -
//     dilationw*l)*within(qh/strideh + paddingh/strideh - dilationh*k/strideh, Lh)*within(qw/stridew + paddingw/stridew -
//     dilationw*l/stridew, Lw))
//
// Each kernel does what its name ends in, at every position. `Element` is the type of the input: see
// runtime/patches.cuh, which also says how positions are shared among threads. Convolutions are not done here.
//
// Derivation (SHA-256 of the map): 0262b6ed526c5e20da7eb57bf27b82d2481701feaedc48ebfe5c46182e00e89b

#include "runtime/patches.cuh"

extern "C" __global__ void patch_norm_like_transposed_xx(
    const Offset count, const Offset groups, const Offset places, const Offset channels, const Element* x_data,
    const Offset x_image, const Offset x_group, const Offset x_apart, const Offset x_step, Wide* xx_data,
    const Wide floor) {
    const Offset own = Offset(blockIdx.x) * blockDim.y + threadIdx.y;
    const bool inside = own < count;
    const Offset position = inside ? own : count - 1;  // all threads of a warp take part in its sums
    const Offset block = quotient(position, places), place = position - block * places;
    const Offset image = quotient(block, groups), group = block - image * groups;
    const Element* x_here = x_data + image * x_image + group * x_group + place * x_step;
    Wide xx_total = 0;
    for (Offset start = V * threadIdx.x; start < channels; start += V * blockDim.x) {
        const Chunk<Element> x_chunk = channels_at(x_here, start, channels, x_apart);
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= channels) break;
            const Wide x = widen(x_chunk.entries[k]);
            xx_total += x * x;
        }
    }
    xx_total = lane_sum(xx_total);
    const Wide xx = floor > xx_total ? 0 : xx_total;
    if (inside && threadIdx.x == 0) xx_data[position] = Wide(xx);
}

extern "C" __global__ void patch_norm_like_transposed_f_z(
    const Offset count, const Offset groups, const Offset places, const Offset channels, const Element* b_data,
    const Offset b_image, const Offset b_group, const Offset b_apart, const Offset b_step, Element* h_data,
    const Offset h_image, const Offset h_group, const Offset h_apart, const Offset h_step, Element* z_data,
    const Offset z_image, const Offset z_group, const Offset z_apart, const Offset z_step, Rounded* f_data,
    const Wide* xx_data, const Offset here_1, const Offset here_2, const Offset here_3, const Offset there_1,
    const Offset there_2, const Offset there_3, const Offset kernel_1, const Offset kernel_2, const Offset kernel_3,
    const Offset stride_1, const Offset stride_2, const Offset stride_3, const Offset padding_1, const Offset padding_2,
    const Offset padding_3, const Offset dilation_1, const Offset dilation_2, const Offset dilation_3,
    const Element* seen_data, const Offset seen_image, const Offset seen_group, const Offset seen_channel,
    const Offset seen_first, const Offset seen_second, const Offset seen_third, const Element* filters_data,
    const Offset filters_image, const Offset filters_group, const Offset filters_channel, const Offset filters_first,
    const Offset filters_second, const Offset filters_third, const Offset inner, const Wide kappa, const Wide near) {
    const Offset own = Offset(blockIdx.x) * blockDim.y + threadIdx.y;
    const bool inside = own < count;
    const Offset position = inside ? own : count - 1;  // all threads of a warp take part in its sums
    const Offset block = quotient(position, places), place = position - block * places;
    const Offset image = quotient(block, groups), group = block - image * groups;
    const Element* b_here = b_data + image * b_image + group * b_group + place * b_step;
    Element* h_here = h_data + image * h_image + group * h_group + place * h_step;
    Element* z_here = z_data + image * z_image + group * z_group + place * z_step;
    const Axis first = {here_1, there_1, kernel_1, stride_1, padding_1, dilation_1};
    const Axis second = {here_2, there_2, kernel_2, stride_2, padding_2, dilation_2};
    const Axis third = {here_3, there_3, kernel_3, stride_3, padding_3, dilation_3};
    const Wide E = over_patch<Spread>(xx_data, block, place, first, second, third);  // grouped-transposed-convolution/norm-like/define-E
    const Wide E_or_inf = E == 0 ? infinity() : E;
    const Wide f = sqrt(kappa - 1) / sqrt(E_or_inf);  // grouped-transposed-convolution/norm-like/define-f
    const bool is_far = below(f, near);
    if (is_far) {  // the sums of a library may have left the range
        const Spaced<const Element> seen = {
            seen_data, seen_image, seen_group, seen_channel, seen_first, seen_second, seen_third};
        const Spaced<const Element> filters = {
            filters_data, filters_image, filters_group, filters_channel, filters_first, filters_second, filters_third};
        for (Offset start = V * threadIdx.x; start < channels; start += V * blockDim.x) {
#pragma unroll 1
            for (Offset k = start; k < start + V && k < channels; ++k) {
                h_here[k * h_apart] = narrow<Element>(UNIT * by_definition<Spread>(
                    seen, filters, image, group, k, inner, place, first, second, third));
            }
        }
    }
    for (Offset start = V * threadIdx.x; start < channels; start += V * blockDim.x) {
        const Chunk<Element> b_chunk = channels_at(b_here, start, channels, b_apart);
        const Chunk<Element> h_chunk = channels_at(h_here, start, channels, h_apart);
        Chunk<Element> z_chunk;
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= channels) break;
            const Wide b = widen(b_chunk.entries[k]);
            const Wide h = is_far ? widen(h_chunk.entries[k]) / UNIT : widen(h_chunk.entries[k]);
            const Wide z = b + f * h;  // grouped-transposed-convolution/norm-like/forward
            z_chunk.entries[k] = narrow<Element>(z);
        }
        if (inside) put_channels(z_here, start, channels, z_apart, z_chunk);
    }
    if (inside && threadIdx.x == 0) f_data[position] = Rounded(f);
}

extern "C" __global__ void patch_norm_like_transposed_dh_dE(
    const Offset count, const Offset groups, const Offset places, const Offset channels, const Element* g_data,
    const Offset g_image, const Offset g_group, const Offset g_apart, const Offset g_step, Element* h_data,
    const Offset h_image, const Offset h_group, const Offset h_apart, const Offset h_step, Element* dh_data,
    const Offset dh_image, const Offset dh_group, const Offset dh_apart, const Offset dh_step, const Rounded* f_data,
    Wide* dE_data, const Offset here_1, const Offset here_2, const Offset here_3, const Offset there_1,
    const Offset there_2, const Offset there_3, const Offset kernel_1, const Offset kernel_2, const Offset kernel_3,
    const Offset stride_1, const Offset stride_2, const Offset stride_3, const Offset padding_1, const Offset padding_2,
    const Offset padding_3, const Offset dilation_1, const Offset dilation_2, const Offset dilation_3,
    const Element* seen_data, const Offset seen_image, const Offset seen_group, const Offset seen_channel,
    const Offset seen_first, const Offset seen_second, const Offset seen_third, const Element* filters_data,
    const Offset filters_image, const Offset filters_group, const Offset filters_channel, const Offset filters_first,
    const Offset filters_second, const Offset filters_third, const Offset inner, int* any_far, const Wide kappa,
    const Wide near) {
    const Offset own = Offset(blockIdx.x) * blockDim.y + threadIdx.y;
    const bool inside = own < count;
    const Offset position = inside ? own : count - 1;  // all threads of a warp take part in its sums
    const Offset block = quotient(position, places), place = position - block * places;
    const Offset image = quotient(block, groups), group = block - image * groups;
    const Element* g_here = g_data + image * g_image + group * g_group + place * g_step;
    Element* h_here = h_data + image * h_image + group * h_group + place * h_step;
    Element* dh_here = dh_data + image * dh_image + group * dh_group + place * dh_step;
    const Wide f = f_data[position];
    const Axis first = {here_1, there_1, kernel_1, stride_1, padding_1, dilation_1};
    const Axis second = {here_2, there_2, kernel_2, stride_2, padding_2, dilation_2};
    const Axis third = {here_3, there_3, kernel_3, stride_3, padding_3, dilation_3};
    const bool is_far = below(f, near);
    if (is_far && inside && threadIdx.x == 0) *any_far = 1;
    if (is_far) {  // the sums of a library may have left the range
        const Spaced<const Element> seen = {
            seen_data, seen_image, seen_group, seen_channel, seen_first, seen_second, seen_third};
        const Spaced<const Element> filters = {
            filters_data, filters_image, filters_group, filters_channel, filters_first, filters_second, filters_third};
        for (Offset start = V * threadIdx.x; start < channels; start += V * blockDim.x) {
#pragma unroll 1
            for (Offset k = start; k < start + V && k < channels; ++k) {
                h_here[k * h_apart] = narrow<Element>(UNIT * by_definition<Spread>(
                    seen, filters, image, group, k, inner, place, first, second, third));
            }
        }
    }
    Wide gh = 0;
    for (Offset start = V * threadIdx.x; start < channels; start += V * blockDim.x) {
        const Chunk<Element> g_chunk = channels_at(g_here, start, channels, g_apart);
        const Chunk<Element> h_chunk = channels_at(h_here, start, channels, h_apart);
        Chunk<Element> dh_chunk;
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= channels) break;
            const Wide g = widen(g_chunk.entries[k]);
            const Wide h = is_far ? widen(h_chunk.entries[k]) / UNIT : widen(h_chunk.entries[k]);
            const Wide dh = f * g;
            gh += g * h;
            dh_chunk.entries[k] = narrow<Element>(dh);
        }
        if (inside) put_channels(dh_here, start, channels, dh_apart, dh_chunk);
    }
    gh = lane_sum(gh);
    const Wide dE = -(f * f * f) * gh / (2 * (kappa - 1));
    if (inside && threadIdx.x == 0) dE_data[position] = Wide(dE);
}

extern "C" __global__ void patch_norm_like_transposed_dx(
    const Offset count, const Offset groups, const Offset places, const Offset channels, const Element* x_data,
    const Offset x_image, const Offset x_group, const Offset x_apart, const Offset x_step, const Element* dh_W_data,
    const Offset dh_W_image, const Offset dh_W_group, const Offset dh_W_apart, const Offset dh_W_step, Element* dx_data,
    const Offset dx_image, const Offset dx_group, const Offset dx_apart, const Offset dx_step, const Wide* dE_data,
    const Offset here_1, const Offset here_2, const Offset here_3, const Offset there_1, const Offset there_2,
    const Offset there_3, const Offset kernel_1, const Offset kernel_2, const Offset kernel_3, const Offset stride_1,
    const Offset stride_2, const Offset stride_3, const Offset padding_1, const Offset padding_2,
    const Offset padding_3, const Offset dilation_1, const Offset dilation_2, const Offset dilation_3) {
    const Offset own = Offset(blockIdx.x) * blockDim.y + threadIdx.y;
    const bool inside = own < count;
    const Offset position = inside ? own : count - 1;  // all threads of a warp take part in its sums
    const Offset block = quotient(position, places), place = position - block * places;
    const Offset image = quotient(block, groups), group = block - image * groups;
    const Element* x_here = x_data + image * x_image + group * x_group + place * x_step;
    const Element* dh_W_here = dh_W_data + image * dh_W_image + group * dh_W_group + place * dh_W_step;
    Element* dx_here = dx_data + image * dx_image + group * dx_group + place * dx_step;
    const Axis first = {here_1, there_1, kernel_1, stride_1, padding_1, dilation_1};
    const Axis second = {here_2, there_2, kernel_2, stride_2, padding_2, dilation_2};
    const Axis third = {here_3, there_3, kernel_3, stride_3, padding_3, dilation_3};
    const Wide dxx = over_patch<Box>(dE_data, block, place, first, second, third);
    for (Offset start = V * threadIdx.x; start < channels; start += V * blockDim.x) {
        const Chunk<Element> dh_W_chunk = channels_at(dh_W_here, start, channels, dh_W_apart);
        const Chunk<Element> x_chunk = channels_at(x_here, start, channels, x_apart);
        Chunk<Element> dx_chunk;
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k >= channels) break;
            const Wide dh_W = widen(dh_W_chunk.entries[k]);
            const Wide x = widen(x_chunk.entries[k]);
            const Wide dx = 2 * dxx * x + dh_W;  // grouped-transposed-convolution/norm-like/backward-dx
            dx_chunk.entries[k] = narrow<Element>(dx);
        }
        if (inside) put_channels(dx_here, start, channels, dx_apart, dx_chunk);
    }
}

extern "C" __global__ void patch_norm_like_transposed_weights_again(
    const int* any_far, Element* dW_data, const Offset dW_image, const Offset dW_group, const Offset dW_channel,
    const Offset dW_first, const Offset dW_second, const Offset dW_third, const Element* g_data, const Offset g_image,
    const Offset g_group, const Offset g_channel, const Offset g_first, const Offset g_second, const Offset g_third,
    const Element* x_data, const Offset x_image, const Offset x_group, const Offset x_channel, const Offset x_first,
    const Offset x_second, const Offset x_third, const Rounded* f, const Rounded* m, const Offset count,
    const Offset groups, const Offset outer, const Offset inner, const Offset images, const Offset here_1,
    const Offset here_2, const Offset here_3, const Offset there_1, const Offset there_2, const Offset there_3,
    const Offset kernel_1, const Offset kernel_2, const Offset kernel_3, const Offset stride_1, const Offset stride_2,
    const Offset stride_3, const Offset padding_1, const Offset padding_2, const Offset padding_3,
    const Offset dilation_1, const Offset dilation_2, const Offset dilation_3) {
    if (*any_far == 0) return;
    const Spaced<Element> dW = {
        dW_data, dW_image, dW_group, dW_channel, dW_first, dW_second, dW_third};
    const Spaced<const Element> g = {
        g_data, g_image, g_group, g_channel, g_first, g_second, g_third};
    const Spaced<const Element> x = {
        x_data, x_image, x_group, x_channel, x_first, x_second, x_third};
    const Axis first = {here_1, there_1, kernel_1, stride_1, padding_1, dilation_1};
    const Axis second = {here_2, there_2, kernel_2, stride_2, padding_2, dilation_2};
    const Axis third = {here_3, there_3, kernel_3, stride_3, padding_3, dilation_3};
    weights_again<Spread>(dW, g, x, f, m, count, groups, outer, inner, images, first, second, third);
}
