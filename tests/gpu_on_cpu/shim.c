/* An OpenCL layer that makes Intel's OpenCL device for CPUs answer as an Intel integrated GPU, so that
   OpenVINO's GPU plugin compiles its own kernels for it and runs them.

   emulator.py builds it, names it in OPENCL_LAYERS and sets the first three of the variables it reads:
     GPU_ON_CPU_DEVICE    140V (the default), or xelpg, which is an older GPU
     GPU_ON_CPU_QUEUES    out-of-order: queues are as the plugin asks for them; otherwise all are in-order
     GPU_ON_CPU_PROGRAMS  a folder that keeps built programs
     GPU_ON_CPU_LOG       a file; builds and launches that fail are appended
     GPU_ON_CPU_COUNTS    a file; a process's synchronisations and launches are appended as it ends

   The declarations of OpenCL that it needs are here, so that no headers have to be installed. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- OpenCL, from CL/cl.h, CL/cl_ext.h, CL/cl_icd.h and CL/cl_layer.h ---- */

typedef int32_t cl_int;
typedef uint32_t cl_uint, cl_bool;
typedef uint64_t cl_ulong, cl_bits;
typedef void *cl_handle; /* a platform, device, context, queue, program, kernel, buffer, image or event */
typedef void (*build_callback)(cl_handle program, void *data);

enum {
    CL_SUCCESS = 0,
    CL_INVALID_VALUE = -30,
    CL_INVALID_WORK_GROUP_SIZE = -54,
    CL_INVALID_GLOBAL_OFFSET = -56,

    CL_DEVICE_TYPE = 0x1000,
    CL_DEVICE_VENDOR_ID = 0x1001,
    CL_DEVICE_MAX_COMPUTE_UNITS = 0x1002,
    CL_DEVICE_MAX_WORK_GROUP_SIZE = 0x1004,
    CL_DEVICE_MAX_CLOCK_FREQUENCY = 0x100C,
    CL_DEVICE_MAX_MEM_ALLOC_SIZE = 0x1010,
    CL_DEVICE_GLOBAL_MEM_CACHE_SIZE = 0x101E,
    CL_DEVICE_LOCAL_MEM_SIZE = 0x1023,
    CL_DEVICE_NAME = 0x102B,
    CL_DRIVER_VERSION = 0x102D,
    CL_DEVICE_EXTENSIONS = 0x1030,
    CL_DEVICE_HOST_UNIFIED_MEMORY = 0x1035,
    CL_DEVICE_PARTITION_MAX_SUB_DEVICES = 0x1043,
    CL_DEVICE_SUB_GROUP_SIZES_INTEL = 0x4108,
    CL_DEVICE_PCI_BUS_INFO_KHR = 0x410F,
    CL_DEVICE_IP_VERSION_INTEL = 0x4250,
    CL_DEVICE_ID_INTEL = 0x4251,
    CL_DEVICE_NUM_SLICES_INTEL = 0x4252,
    CL_DEVICE_NUM_SUB_SLICES_PER_SLICE_INTEL = 0x4253,
    CL_DEVICE_NUM_EUS_PER_SUB_SLICE_INTEL = 0x4254,
    CL_DEVICE_NUM_THREADS_PER_EU_INTEL = 0x4255,
    CL_DEVICE_FEATURE_CAPABILITIES_INTEL = 0x4256,

    CL_CONTEXT_DEVICES = 0x1081,
    CL_QUEUE_PROPERTIES = 0x1093,
    CL_PROGRAM_BINARY_SIZES = 0x1165,
    CL_PROGRAM_BINARIES = 0x1166,
    CL_PROGRAM_BUILD_LOG = 0x1183,
    CL_KERNEL_FUNCTION_NAME = 0x1190,

    CL_LAYER_API_VERSION = 0x4240,
    CL_LAYER_NAME = 0x4241,
    CL_LAYER_API_VERSION_100 = 100,
};

#define CL_DEVICE_TYPE_GPU (1ull << 2)
#define CL_DEVICE_TYPE_ALL 0xFFFFFFFFull
#define CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE (1ull << 0)
#define CL_DEVICE_FEATURE_FLAG_DP4A_INTEL (1ull << 0)

/* Where functions stand in cl_icd_dispatch; OpenCL's ABI fixes it. */
enum {
    AT_clGetDeviceIDs = 2,
    AT_clGetDeviceInfo = 3,
    AT_clGetContextInfo = 8,
    AT_clCreateProgramWithSource = 26,
    AT_clCreateProgramWithBinary = 27,
    AT_clRetainProgram = 28,
    AT_clBuildProgram = 30,
    AT_clGetProgramInfo = 32,
    AT_clGetProgramBuildInfo = 33,
    AT_clCreateKernel = 34,
    AT_clCreateKernelsInProgram = 35,
    AT_clGetKernelInfo = 39,
    AT_clWaitForEvents = 41,
    AT_clFinish = 47,
    AT_clEnqueueReadBuffer = 48,
    AT_clEnqueueWriteBuffer = 49,
    AT_clEnqueueReadImage = 51,
    AT_clEnqueueWriteImage = 52,
    AT_clEnqueueMapBuffer = 56,
    AT_clEnqueueMapImage = 57,
    AT_clEnqueueNDRangeKernel = 59,
    AT_clGetExtensionFunctionAddressForPlatform = 107,
    AT_clCreateCommandQueueWithProperties = 123,
    FUNCTIONS
};

static void *const *next_functions; /* what stands behind this layer: the CPU's runtime */
static void *own_functions[FUNCTIONS];

/* The runtime's function, with the type of the declaration of the same name here. */
#define NEXT(function) ((__typeof__(&function))next_functions[AT_##function])

cl_int clGetContextInfo(cl_handle context, cl_uint what, size_t size, void *value, size_t *needed);
cl_int clGetKernelInfo(cl_handle kernel, cl_uint what, size_t size, void *value, size_t *needed);
cl_int clRetainProgram(cl_handle program);

/* ---- What failed, for a person to read ---- */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((format(printf, 1, 2))) static void log_failure(const char *format, ...) {
    const char *path = getenv("GPU_ON_CPU_LOG");
    pthread_mutex_lock(&log_lock);
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        va_list arguments;
        va_start(arguments, format);
        vfprintf(file, format, arguments);
        va_end(arguments);
        fclose(file);
    }
    pthread_mutex_unlock(&log_lock);
}

/* ---- The device's answers ---- */

struct gpu {
    const char *key, *name;
    cl_uint ip_version, id, sub_slices, units_per_sub_slice;
    cl_ulong local_kib;
    size_t sub_group_sizes[3];
    int sub_group_size_count;
};

#define IP_VERSION(major, minor, revision) ((major) << 22 | (minor) << 14 | (revision))

static const struct gpu gpus[] = {
    {"140V", "Intel(R) Arc(TM) 140V GPU (16GB)", IP_VERSION(20u, 4u, 4u), 0x64A0, 8, 8, 128, {16, 32}, 2},
    {"xelpg", "Intel(R) Graphics [0x7d55]", IP_VERSION(12u, 70u, 4u), 0x7D55, 8, 16, 64, {8, 16, 32}, 3},
};

static const struct gpu *gpu(void) {
    const char *key = getenv("GPU_ON_CPU_DEVICE");
    return key && !strcmp(key, gpus[1].key) ? &gpus[1] : &gpus[0];
}

static cl_int clGetDeviceIDs(cl_handle platform, cl_bits type, cl_uint count, cl_handle *devices,
                             cl_uint *found) {
    return NEXT(clGetDeviceIDs)(platform, type & CL_DEVICE_TYPE_GPU ? CL_DEVICE_TYPE_ALL : type, count,
                                devices, found);
}

static cl_int answer(const void *value, size_t value_size, size_t size, void *target, size_t *needed) {
    if (needed) *needed = value_size;
    if (!target) return CL_SUCCESS;
    if (size < value_size) return CL_INVALID_VALUE;
    memcpy(target, value, value_size);
    return CL_SUCCESS;
}

static cl_int clGetDeviceInfo(cl_handle device, cl_uint what, size_t size, void *value, size_t *needed);

static cl_int answer_extensions(cl_handle device, size_t size, void *target, size_t *needed) {
    static const char more[] = " cl_khr_subgroups cl_khr_pci_bus_info";
    size_t own_size = 0;
    cl_int status = NEXT(clGetDeviceInfo)(device, CL_DEVICE_EXTENSIONS, 0, NULL, &own_size);
    char *text = calloc(own_size + sizeof more, 1);
    if (!status) status = NEXT(clGetDeviceInfo)(device, CL_DEVICE_EXTENSIONS, own_size, text, NULL);
    strcat(text, more);
    if (!status) status = answer(text, strlen(text) + 1, size, target, needed);
    free(text);
    return status;
}

#define ANSWER(type, expression)                                    \
    do {                                                            \
        type value_ = (expression);                                 \
        return answer(&value_, sizeof value_, size, value, needed); \
    } while (0)

static cl_int clGetDeviceInfo(cl_handle device, cl_uint what, size_t size, void *value, size_t *needed) {
    const struct gpu *as = gpu();
    static const cl_uint pci_address[4] = {0, 0, 2, 0};
    static const char driver[] = "25.18.33578";
    switch (what) {
    case CL_DEVICE_TYPE: ANSWER(cl_bits, CL_DEVICE_TYPE_GPU);
    case CL_DEVICE_VENDOR_ID: ANSWER(cl_uint, 0x8086);
    case CL_DEVICE_NAME: return answer(as->name, strlen(as->name) + 1, size, value, needed);
    case CL_DRIVER_VERSION: return answer(driver, sizeof driver, size, value, needed);
    case CL_DEVICE_EXTENSIONS: return answer_extensions(device, size, value, needed);
    case CL_DEVICE_HOST_UNIFIED_MEMORY: ANSWER(cl_bool, 1);
    case CL_DEVICE_MAX_COMPUTE_UNITS: ANSWER(cl_uint, as->sub_slices * as->units_per_sub_slice);
    case CL_DEVICE_MAX_CLOCK_FREQUENCY: ANSWER(cl_uint, 2000);
    case CL_DEVICE_MAX_WORK_GROUP_SIZE: ANSWER(size_t, 1024);
    case CL_DEVICE_MAX_MEM_ALLOC_SIZE: ANSWER(cl_ulong, 4ull << 30);
    case CL_DEVICE_GLOBAL_MEM_CACHE_SIZE: ANSWER(cl_ulong, 8 << 20);
    case CL_DEVICE_LOCAL_MEM_SIZE: ANSWER(cl_ulong, as->local_kib << 10);
    case CL_DEVICE_PARTITION_MAX_SUB_DEVICES: ANSWER(cl_uint, 0);
    case CL_DEVICE_SUB_GROUP_SIZES_INTEL:
        return answer(as->sub_group_sizes, as->sub_group_size_count * sizeof(size_t), size, value, needed);
    case CL_DEVICE_PCI_BUS_INFO_KHR: return answer(pci_address, sizeof pci_address, size, value, needed);
    case CL_DEVICE_IP_VERSION_INTEL: ANSWER(cl_uint, as->ip_version);
    case CL_DEVICE_ID_INTEL: ANSWER(cl_uint, as->id);
    case CL_DEVICE_NUM_SLICES_INTEL: ANSWER(cl_uint, 1);
    case CL_DEVICE_NUM_SUB_SLICES_PER_SLICE_INTEL: ANSWER(cl_uint, as->sub_slices);
    case CL_DEVICE_NUM_EUS_PER_SUB_SLICE_INTEL: ANSWER(cl_uint, as->units_per_sub_slice);
    case CL_DEVICE_NUM_THREADS_PER_EU_INTEL: ANSWER(cl_uint, 8);
    case CL_DEVICE_FEATURE_CAPABILITIES_INTEL:
        ANSWER(cl_bits, CL_DEVICE_FEATURE_FLAG_DP4A_INTEL); /* no DPAS */
    default: return NEXT(clGetDeviceInfo)(device, what, size, value, needed);
    }
}

/* ---- Kernels that expect a GPU's work groups and functions ----

   A GPU numbers the items of a work group in linear order and cuts sub-groups from that; the CPU's runtime
   cuts them from dimension 0 alone.  Every work group is therefore launched as (L0 * L1 * L2, 1, 1).  L0, L1
   and L2 travel as the global offset, which the plugin does not use, and kernels work out their ids from
   these. */

static const char prelude[] =
    "#define ON_CPU_L0 ((uint)get_global_offset(0))\n"
    "#define ON_CPU_L1 ((uint)get_global_offset(1))\n"
    "#define ON_CPU_L2 ((uint)get_global_offset(2))\n"
    "inline uint on_cpu_local_size(uint d) {\n"
    "  return d == 0 ? ON_CPU_L0 : d == 1 ? ON_CPU_L1 : d == 2 ? ON_CPU_L2 : 1;\n"
    "}\n"
    "inline uint on_cpu_local_id(uint d) {\n"
    "  uint item = (uint)get_local_id(0);\n"
    "  if (d == 0) return ON_CPU_L1 * ON_CPU_L2 == 1 ? item : item % ON_CPU_L0;\n"
    "  if (d == 1) return ON_CPU_L1 == 1 ? 0 : item / ON_CPU_L0 % ON_CPU_L1;\n"
    "  return d == 2 && ON_CPU_L2 != 1 ? item / (ON_CPU_L0 * ON_CPU_L1) : 0;\n"
    "}\n"
    "inline size_t on_cpu_global_id(uint d) {\n"
    "  return get_group_id(d) * on_cpu_local_size(d) + on_cpu_local_id(d);\n"
    "}\n"
    "inline size_t on_cpu_global_size(uint d) { return get_num_groups(d) * on_cpu_local_size(d); }\n"
    "inline size_t on_cpu_global_linear_id() {\n"
    "  size_t row = on_cpu_global_id(2) * on_cpu_global_size(1) + on_cpu_global_id(1);\n"
    "  return row * on_cpu_global_size(0) + on_cpu_global_id(0);\n"
    "}\n"
    "#define get_local_id(d) ((size_t)on_cpu_local_id(d))\n"
    "#define get_local_size(d) ((size_t)on_cpu_local_size(d))\n"
    "#define get_enqueued_local_size(d) ((size_t)on_cpu_local_size(d))\n"
    "#define get_global_id(d) on_cpu_global_id(d)\n"
    "#define get_global_size(d) on_cpu_global_size(d)\n"
    "#define get_global_linear_id() on_cpu_global_linear_id()\n"
    "#define get_global_offset(d) ((size_t)0)\n"
    "#define reqd_work_group_size(a, b, c) reqd_work_group_size((a) * (b) * (c), 1, 1)\n"
    "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n"
    /* Native functions of a GPU are right to some last bits.  Those of the CPU's runtime are good for twelve bits
       only, on some processors. */
    "#define native_sqrt(x) sqrt(x)\n"
    "#define native_rsqrt(x) rsqrt(x)\n"
    "#define native_recip(x) (1 / (x))\n"
    "#define native_divide(x, y) ((x) / (y))\n"
    "#define native_exp(x) exp(x)\n"
    "#define native_exp2(x) exp2(x)\n"
    "#define native_log(x) log(x)\n"
    "#define native_log2(x) log2(x)\n"
    "#define native_tan(x) tan(x)\n"
    "#define native_sin(x) sin(x)\n"
    "#define native_cos(x) cos(x)\n"
    /* Intel's GPUs take the power of the absolute value; the CPU's runtime gives NaN below zero. */
    "#define ON_CPU_POWR(T) inline T __attribute__((overloadable)) on_cpu_powr(T x, T y) {\\\n"
    "  return (T)powr(fabs(x), y);\\\n"
    "}\n"
    "ON_CPU_POWR(float) ON_CPU_POWR(float2) ON_CPU_POWR(float4) ON_CPU_POWR(float8) ON_CPU_POWR(float16)\n"
    "inline half __attribute__((overloadable)) on_cpu_powr(half x, half y) {\n"
    "  return (half)powr(fabs((float)x), (float)y);\n"
    "}\n"
    "#define native_powr(x, y) on_cpu_powr(x, y)\n"
    "#line 1\n";

/* Options of Intel's GPU compiler that the CPU's does not know. */
static const char *const gpu_options[] = {
    "-cl-intel-greater-than-4GB-buffer-required",
    "-cl-intel-256-GRF-per-thread",
    "-cl-intel-no-prera-scheduling",
    "-cl-intel-allow-zebin",
    "-Dcl_intel_dot_accumulate",
    "-Dcl_intel_global_float_atomic",
    "-Dcl_intel_subgroup_matrix_multiply_accumulate",
    "-Dcl_intel_subgroup_split_matrix_multiply_accumulate",
};

/* Whole options only: one may begin as another does.  Kernels are not optimized, which would make builds ten
   times as long. */
static char *cpu_options(const char *options) {
    static const char unoptimized[] = " -cl-opt-disable";
    char *result = malloc(strlen(options) + sizeof unoptimized);
    strcpy(result, options);
    for (size_t i = 0; i < sizeof gpu_options / sizeof *gpu_options; i++) {
        size_t length = strlen(gpu_options[i]);
        for (char *at = result; (at = strstr(at, gpu_options[i])); at += length)
            if (strchr(" =", at[length])) memset(at, ' ', strcspn(at, " "));
    }
    return strcat(result, unoptimized);
}

/* ---- Built programs, kept on disk ----

   A program's options, and with them what is kept for it, are known only when it is built.  The plugin holds
   the program from source by then: each is remembered with the program that was built in its place. */

struct program {
    struct program *following;
    cl_handle handle, context, built;
    char *source;
};

static struct program *programs;
static pthread_mutex_t programs_lock = PTHREAD_MUTEX_INITIALIZER;

static void remember(cl_handle handle, cl_handle context, char *source) {
    struct program *program = malloc(sizeof *program);
    pthread_mutex_lock(&programs_lock);
    *program = (struct program){programs, handle, context, handle, source};
    programs = program;
    pthread_mutex_unlock(&programs_lock);
}

static struct program *remembered(cl_handle handle) {
    pthread_mutex_lock(&programs_lock);
    struct program *program = programs;
    while (program && program->handle != handle) program = program->following;
    pthread_mutex_unlock(&programs_lock);
    return program;
}

static cl_handle built(cl_handle handle) {
    struct program *program = remembered(handle);
    return program ? program->built : handle;
}

typedef unsigned __int128 digest; /* 128 bits: two programs never share one by chance */

static digest fnv1a(digest so_far, const void *bytes, size_t size) {
    const digest prime = (digest)1 << 88 | 0x13B;
    for (size_t i = 0; i < size; i++) so_far = (so_far ^ ((const unsigned char *)bytes)[i]) * prime;
    return so_far;
}

static const digest fnv1a_start = (digest)0x6C62272E07BB0142 << 64 | 0x62B821756295C58D;

/* What decides a binary: options and source.  The folder's name says all else (see emulator.py). */
static digest key_of(const char *options, const char *source) {
    digest of_options = fnv1a(fnv1a_start, options, strlen(options) + 1);
    return fnv1a(of_options, source, strlen(source));
}

static int kept_path(char *path, size_t size, digest key) {
    const char *folder = getenv("GPU_ON_CPU_PROGRAMS");
    unsigned long long high = key >> 64, low = key;
    return folder && snprintf(path, size, "%s/%016llx%016llx", folder, high, low) < (int)size;
}

/* A kept file is the binary's digest and the binary: one that a power cut left incomplete is not used. */
static unsigned char *read_kept(digest key, size_t *binary_size) {
    char path[4096];
    FILE *file = kept_path(path, sizeof path, key) ? fopen(path, "rb") : NULL;
    if (!file) return NULL;
    digest expected;
    fseek(file, 0, SEEK_END);
    long size = ftell(file) - (long)sizeof expected;
    rewind(file);
    unsigned char *binary = size > 0 ? malloc(size) : NULL;
    int whole = binary && fread(&expected, sizeof expected, 1, file) == 1 && fread(binary, size, 1, file) == 1
                && fnv1a(fnv1a_start, binary, size) == expected;
    fclose(file);
    *binary_size = size;
    if (whole) return binary;
    free(binary);
    return NULL;
}

/* Written beside its place and renamed: other processes see all of a file or none. */
static void write_kept(digest key, const unsigned char *binary, size_t size) {
    char path[4096], part[4096 + 8];
    if (!kept_path(path, sizeof path, key)) return;
    snprintf(part, sizeof part, "%s.XXXXXX", path);
    int descriptor = mkstemp(part);
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
    if (!file) return;
    digest of_binary = fnv1a(fnv1a_start, binary, size);
    int whole = fwrite(&of_binary, sizeof of_binary, 1, file) == 1 && fwrite(binary, size, 1, file) == 1;
    whole &= !fclose(file);
    if (!whole || rename(part, path)) unlink(part);
}

static cl_handle clCreateProgramWithBinary(cl_handle context, cl_uint count, const cl_handle *devices,
                                           const size_t *sizes, const unsigned char **binaries,
                                           cl_int *statuses, cl_int *status);
static cl_int clBuildProgram(cl_handle program, cl_uint count, const cl_handle *devices, const char *options,
                             build_callback callback, void *data);
static cl_int clGetProgramInfo(cl_handle program, cl_uint what, size_t size, void *value, size_t *needed);
static cl_int clGetProgramBuildInfo(cl_handle program, cl_handle device, cl_uint what, size_t size,
                                    void *value, size_t *needed);

static cl_handle device_of(cl_handle context) {
    cl_handle device = NULL;
    NEXT(clGetContextInfo)(context, CL_CONTEXT_DEVICES, sizeof device, &device, NULL);
    return device;
}

/* The program as it was kept, or NULL. */
static cl_handle build_kept(cl_handle context, digest key, const char *options) {
    size_t size;
    unsigned char *binary = read_kept(key, &size);
    if (!binary) return NULL;
    cl_handle device = device_of(context);
    cl_int status, of_binary;
    cl_handle program = clCreateProgramWithBinary(context, 1, &device, &size, (const unsigned char **)&binary,
                                                  &of_binary, &status);
    free(binary);
    if (!program || status || of_binary) return NULL;
    return NEXT(clBuildProgram)(program, 1, &device, options, NULL, NULL) ? NULL : program;
}

static void keep(cl_handle program, digest key) {
    size_t size = 0;
    if (NEXT(clGetProgramInfo)(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, NULL) || !size) return;
    unsigned char *binary = malloc(size);
    if (!NEXT(clGetProgramInfo)(program, CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL))
        write_kept(key, binary, size);
    free(binary);
}

static void log_build(cl_handle program, cl_handle device, const char *options, cl_int status) {
    size_t size = 0;
    NEXT(clGetProgramBuildInfo)(program, device, CL_PROGRAM_BUILD_LOG, 0, NULL, &size);
    char *text = calloc(size + 1, 1);
    NEXT(clGetProgramBuildInfo)(program, device, CL_PROGRAM_BUILD_LOG, size, text, NULL);
    log_failure("A program was not built (%d); its options: %s\n%s\n", status, options, text);
    free(text);
}

static cl_handle clCreateProgramWithSource(cl_handle context, cl_uint count, const char **texts,
                                           const size_t *lengths, cl_int *status) {
    size_t size = sizeof prelude;
    for (cl_uint i = 0; i < count; i++) size += lengths && lengths[i] ? lengths[i] : strlen(texts[i]);
    char *source = malloc(size), *end = stpcpy(source, prelude);
    for (cl_uint i = 0; i < count; i++) {
        size_t length = lengths && lengths[i] ? lengths[i] : strlen(texts[i]);
        end = mempcpy(end, texts[i], length);
    }
    *end = 0;
    cl_handle program = NEXT(clCreateProgramWithSource)(context, 1, (const char **)&source, NULL, status);
    if (!program) {
        free(source);
        return NULL;
    }
    /* The plugin asks kernels for their program, which the CPU's runtime may have forgotten by then. */
    NEXT(clRetainProgram)(program);
    remember(program, context, source);
    return program;
}

static cl_handle clCreateProgramWithBinary(cl_handle context, cl_uint count, const cl_handle *devices,
                                           const size_t *sizes, const unsigned char **binaries,
                                           cl_int *statuses, cl_int *status) {
    cl_handle program =
        NEXT(clCreateProgramWithBinary)(context, count, devices, sizes, binaries, statuses, status);
    if (program) NEXT(clRetainProgram)(program); /* as those from source */
    return program;
}

static cl_int build_from_source(struct program *program, digest key, const char *options) {
    cl_handle device = device_of(program->context);
    cl_int status = NEXT(clBuildProgram)(program->handle, 1, &device, options, NULL, NULL);
    if (status)
        log_build(program->handle, device, options, status);
    else
        keep(program->handle, key);
    return status;
}

/* Builds are over when this returns, whether or not the plugin asks for a callback. */
static cl_int clBuildProgram(cl_handle handle, cl_uint count, const cl_handle *devices, const char *options,
                             build_callback callback, void *data) {
    struct program *program = remembered(handle);
    char *usable = cpu_options(options ? options : "");
    cl_int status = CL_SUCCESS;
    if (program) {
        digest key = key_of(usable, program->source);
        cl_handle kept = build_kept(program->context, key, usable);
        program->built = kept ? kept : handle;
        if (!kept) status = build_from_source(program, key, usable);
    } else {
        status = NEXT(clBuildProgram)(handle, count, devices, usable, NULL, NULL);
    }
    free(usable);
    if (callback) callback(handle, data);
    return status;
}

static cl_int clGetProgramInfo(cl_handle program, cl_uint what, size_t size, void *value, size_t *needed) {
    return NEXT(clGetProgramInfo)(built(program), what, size, value, needed);
}

static cl_int clGetProgramBuildInfo(cl_handle program, cl_handle device, cl_uint what, size_t size,
                                    void *value, size_t *needed) {
    return NEXT(clGetProgramBuildInfo)(built(program), device, what, size, value, needed);
}

static cl_handle clCreateKernel(cl_handle program, const char *name, cl_int *status) {
    return NEXT(clCreateKernel)(built(program), name, status);
}

static cl_int clCreateKernelsInProgram(cl_handle program, cl_uint count, cl_handle *kernels, cl_uint *found) {
    return NEXT(clCreateKernelsInProgram)(built(program), count, kernels, found);
}

/* ---- Queues and launches ---- */

static cl_handle clCreateCommandQueueWithProperties(cl_handle context, cl_handle device,
                                                    const cl_bits *properties, cl_int *status) {
    const char *queues = getenv("GPU_ON_CPU_QUEUES");
    int in_order = !queues || strcmp(queues, "out-of-order");
    cl_bits kept[3] = {0}; /* the CPU's runtime refuses Intel's families, priorities and throttles */
    for (; properties && *properties; properties += 2)
        if (*properties == CL_QUEUE_PROPERTIES) {
            kept[0] = CL_QUEUE_PROPERTIES;
            kept[1] = in_order ? properties[1] & ~CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE : properties[1];
        }
    return NEXT(clCreateCommandQueueWithProperties)(context, device, kept, status);
}

static atomic_ulong synchronisations, launches;

static void log_launch(cl_handle kernel, const size_t *global, const size_t *local, cl_int status) {
    char name[512] = "?";
    NEXT(clGetKernelInfo)(kernel, CL_KERNEL_FUNCTION_NAME, sizeof name, name, NULL);
    log_failure("%s was not launched (%d): global size %zu,%zu,%zu, local size %zu,%zu,%zu\n", name, status,
                global[0], global[1], global[2], local[0], local[1], local[2]);
}

static cl_int clEnqueueNDRangeKernel(cl_handle queue, cl_handle kernel, cl_uint dimensions,
                                     const size_t *offset, const size_t *global, const size_t *local,
                                     cl_uint wait_count, const cl_handle *wait_for, cl_handle *event) {
    size_t whole[3] = {1, 1, 1}, group[3] = {1, 1, 1};
    cl_int status = CL_SUCCESS;
    for (cl_uint i = 0; i < dimensions; i++) {
        whole[i] = global[i];
        if (local) group[i] = local[i];
        if (!group[i] || whole[i] % group[i]) status = CL_INVALID_WORK_GROUP_SIZE;
        if (offset && offset[i]) status = CL_INVALID_GLOBAL_OFFSET; /* it is taken: see the prelude */
    }
    if (!status) {
        size_t items = group[0] * group[1] * group[2];
        size_t linear_group[3] = {items, 1, 1};
        size_t linear[3] = {whole[0] / group[0] * items, whole[1] / group[1], whole[2] / group[2]};
        status = NEXT(clEnqueueNDRangeKernel)(queue, kernel, 3, group, linear, linear_group, wait_count,
                                              wait_for, event);
    }
    if (status)
        log_launch(kernel, whole, group, status);
    else
        launches++;
    return status;
}

/* ---- Calls that make the host wait ---- */

static cl_int clFinish(cl_handle queue) {
    synchronisations++;
    return NEXT(clFinish)(queue);
}

static cl_int clWaitForEvents(cl_uint count, const cl_handle *events) {
    synchronisations++;
    return NEXT(clWaitForEvents)(count, events);
}

static cl_int clEnqueueReadBuffer(cl_handle queue, cl_handle buffer, cl_bool blocking, size_t offset,
                                  size_t size, void *target, cl_uint wait_count, const cl_handle *wait_for,
                                  cl_handle *event) {
    synchronisations += blocking != 0;
    return NEXT(clEnqueueReadBuffer)(queue, buffer, blocking, offset, size, target, wait_count, wait_for,
                                     event);
}

static cl_int clEnqueueWriteBuffer(cl_handle queue, cl_handle buffer, cl_bool blocking, size_t offset,
                                   size_t size, const void *source, cl_uint wait_count,
                                   const cl_handle *wait_for, cl_handle *event) {
    synchronisations += blocking != 0;
    return NEXT(clEnqueueWriteBuffer)(queue, buffer, blocking, offset, size, source, wait_count, wait_for,
                                      event);
}

static cl_int clEnqueueReadImage(cl_handle queue, cl_handle image, cl_bool blocking, const size_t *origin,
                                 const size_t *region, size_t row_pitch, size_t slice_pitch, void *target,
                                 cl_uint wait_count, const cl_handle *wait_for, cl_handle *event) {
    synchronisations += blocking != 0;
    return NEXT(clEnqueueReadImage)(queue, image, blocking, origin, region, row_pitch, slice_pitch, target,
                                    wait_count, wait_for, event);
}

static cl_int clEnqueueWriteImage(cl_handle queue, cl_handle image, cl_bool blocking, const size_t *origin,
                                  const size_t *region, size_t row_pitch, size_t slice_pitch,
                                  const void *source, cl_uint wait_count, const cl_handle *wait_for,
                                  cl_handle *event) {
    synchronisations += blocking != 0;
    return NEXT(clEnqueueWriteImage)(queue, image, blocking, origin, region, row_pitch, slice_pitch, source,
                                     wait_count, wait_for, event);
}

static void *clEnqueueMapBuffer(cl_handle queue, cl_handle buffer, cl_bool blocking, cl_bits flags,
                                size_t offset, size_t size, cl_uint wait_count, const cl_handle *wait_for,
                                cl_handle *event, cl_int *status) {
    synchronisations += blocking != 0;
    return NEXT(clEnqueueMapBuffer)(queue, buffer, blocking, flags, offset, size, wait_count, wait_for, event,
                                    status);
}

static void *clEnqueueMapImage(cl_handle queue, cl_handle image, cl_bool blocking, cl_bits flags,
                               const size_t *origin, const size_t *region, size_t *row_pitch,
                               size_t *slice_pitch, cl_uint wait_count, const cl_handle *wait_for,
                               cl_handle *event, cl_int *status) {
    synchronisations += blocking != 0;
    return NEXT(clEnqueueMapImage)(queue, image, blocking, flags, origin, region, row_pitch, slice_pitch,
                                   wait_count, wait_for, event, status);
}

static cl_int clEnqueueMemcpyINTEL(cl_handle queue, cl_bool blocking, void *target, const void *source,
                                   size_t size, cl_uint wait_count, const cl_handle *wait_for,
                                   cl_handle *event);
static __typeof__(&clEnqueueMemcpyINTEL) _Atomic next_memcpy;

static cl_int clEnqueueMemcpyINTEL(cl_handle queue, cl_bool blocking, void *target, const void *source,
                                   size_t size, cl_uint wait_count, const cl_handle *wait_for,
                                   cl_handle *event) {
    synchronisations += blocking != 0;
    return next_memcpy(queue, blocking, target, source, size, wait_count, wait_for, event);
}

/* Of the extensions' functions that the plugin uses, this one alone can make the host wait. */
static void *clGetExtensionFunctionAddressForPlatform(cl_handle platform, const char *name) {
    void *function = NEXT(clGetExtensionFunctionAddressForPlatform)(platform, name);
    if (!function || strcmp(name, "clEnqueueMemcpyINTEL")) return function;
    next_memcpy = function;
    return clEnqueueMemcpyINTEL;
}

/* The numbers of synchronisations and launches since the process began; for ctypes. */
void gpu_on_cpu_counts(unsigned long out[2]) {
    out[0] = synchronisations;
    out[1] = launches;
}

__attribute__((destructor)) static void write_counts(void) {
    const char *path = getenv("GPU_ON_CPU_COUNTS");
    FILE *file = path && launches ? fopen(path, "a") : NULL;
    if (!file) return;
    fprintf(file, "{\"process\": %d, \"synchronisations\": %lu, \"launches\": %lu}\n", (int)getpid(),
            synchronisations, launches);
    fclose(file);
}

/* ---- The layer's two entries, which OpenCL's loader calls ---- */

cl_int clGetLayerInfo(cl_uint what, size_t size, void *value, size_t *needed) {
    static const char name[] = "GPU on CPU";
    if (what == CL_LAYER_NAME) return answer(name, sizeof name, size, value, needed);
    if (what == CL_LAYER_API_VERSION) ANSWER(cl_uint, CL_LAYER_API_VERSION_100);
    return CL_INVALID_VALUE;
}

#define OWN(function) own_functions[AT_##function] = (void *)function

/* Functions left NULL are passed on by the loader. */
cl_int clInitLayerWithProperties(cl_uint count, void *const *next, cl_uint *own_count, void *const **own,
                                 const cl_bits *properties) {
    (void)properties;
    if (count < FUNCTIONS) return CL_INVALID_VALUE;
    next_functions = next;
    OWN(clGetDeviceIDs);
    OWN(clGetDeviceInfo);
    OWN(clCreateProgramWithSource);
    OWN(clCreateProgramWithBinary);
    OWN(clBuildProgram);
    OWN(clGetProgramInfo);
    OWN(clGetProgramBuildInfo);
    OWN(clCreateKernel);
    OWN(clCreateKernelsInProgram);
    OWN(clWaitForEvents);
    OWN(clFinish);
    OWN(clEnqueueReadBuffer);
    OWN(clEnqueueWriteBuffer);
    OWN(clEnqueueReadImage);
    OWN(clEnqueueWriteImage);
    OWN(clEnqueueMapBuffer);
    OWN(clEnqueueMapImage);
    OWN(clEnqueueNDRangeKernel);
    OWN(clGetExtensionFunctionAddressForPlatform);
    OWN(clCreateCommandQueueWithProperties);
    *own_count = FUNCTIONS;
    *own = own_functions;
    return CL_SUCCESS;
}
