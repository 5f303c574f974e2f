/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_new.c - `tenon plugin new`: one C file to begin with.
 *
 * What is written compiles and passes `tenon plugin check --run`: a quantization that reads
 * plain weights, a device that says which operation it lacks, a communicator of one rank, a
 * frontend that listens to nobody. `@` stands for the plugin's name. */
#include "plugin_check.h"

#include "buf.h"
#include "conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static const char head[] =
    "/* @.c - says in one line what this plugin is.\n"
    " *\n"
    " * Build and check:\n"
    " *   cc -std=c11 -O2 -shared -fPIC -fvisibility=hidden $(pkg-config --cflags tenon) \\\n"
    " *      -Wl,-z,defs -Wl,-z,relro @.c -o @.so\n"
    " *   tenon plugin check --run ./@.so\n"
    " * Use: put @.so into plugin_path, or name it in the INI:\n"
    " *   [plugin @]\n"
    " *   file = /absolute/path/to/@.so */\n"
    "#include <tenon/plugin.h>\n"
    "\n";

static const char quant[] =
    "/* 0: not mine ... 100: certainly mine. */\n"
    "static uint32_t claims(void *self, const tn_view *v, tn_err *why)\n"
    "{\n"
    "    const tn_json *method = tn_json_find(v->quant, \"quant_method\");\n"
    "    (void)self;\n"
    "    if (method != NULL && method->type == TN_JSON_TEXT && strcmp(method->text, \"@\") == 0)\n"
    "        return 100;\n"
    "    tn_fail(why, TN_OK, \"@: quant_method is not @\");\n"
    "    return 0;\n"
    "}\n"
    "\n"
    "/* Your format begins here: which tensors hold the module, and in which form do they come? */\n"
    "static tn_status find(const tn_view *v, const tn_module *m, tn_tensor *t, uint32_t *kind,\n"
    "                      tn_err *err)\n"
    "{\n"
    "    char name[512];\n"
    "    snprintf(name, sizeof name, \"%s.weight\", m->name);\n"
    "    if (!v->find(v, name, t))\n"
    "        return tn_fail(err, TN_NOINPUT, \"@: no tensor %s\", name);\n"
    "    *kind = t->dtype == TN_F32 ? TN_FORM_F32 : t->dtype == TN_F16 ? TN_FORM_F16\n"
    "          : t->dtype == TN_BF16 ? TN_FORM_BF16 : 0;\n"
    "    uint64_t size = t->dtype == TN_F32 ? 4 : 2;\n"
    "    if (*kind == 0 || t->ndim != 2 || t->dim[0] != m->n || t->dim[1] != m->k\n"
    "        || t->data_size != m->n * m->k * size)\n"
    "        return tn_fail(err, TN_DATA, \"@: %s in %s: expected a plain matrix %llu x %llu\",\n"
    "                       name, t->file, (unsigned long long)m->n, (unsigned long long)m->k);\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "static tn_status form_of(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,\n"
    "                         tn_form *out, tn_err *err)\n"
    "{\n"
    "    tn_tensor t;\n"
    "    uint32_t kind;\n"
    "    (void)self;\n"
    "    tn_status st = find(v, m, &t, &kind, err);\n"
    "    if (st != TN_OK)\n"
    "        return st;\n"
    "    *out = (tn_form){.size = sizeof *out, .kind = kind, .bits = kind == TN_FORM_F32 ? 32 : 16,\n"
    "                     .rows = r->row1 - r->row0, .cols = r->col1 - r->col0,\n"
    "                     .file_bytes = t.data_size};\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "/* Where a matrix may be cut for several ranks: here anywhere. */\n"
    "static tn_status cut(void *self, const tn_view *v, const tn_module *m, uint64_t *row_unit,\n"
    "                     uint64_t *col_unit, tn_err *err)\n"
    "{\n"
    "    (void)self;\n"
    "    (void)v;\n"
    "    (void)m;\n"
    "    (void)err;\n"
    "    *row_unit = *col_unit = 1;\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "static tn_status read_rows(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,\n"
    "                           uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)\n"
    "{\n"
    "    tn_tensor t;\n"
    "    uint32_t kind;\n"
    "    (void)self;\n"
    "    tn_status st = find(v, m, &t, &kind, err);\n"
    "    uint64_t size = kind == TN_FORM_F32 ? 4 : 2, width = (r->col1 - r->col0) * size;\n"
    "    for (uint64_t row = row0; st == TN_OK && row < row1; row++)\n"
    "        memcpy((char *)out->codes + (row - row0) * width,\n"
    "               (const char *)t.data + (row * m->k + r->col0) * size, width);\n"
    "    return st;\n"
    "}\n"
    "\n"
    "static const tn_quant table = {\n"
    "    .size = sizeof(tn_quant),\n"
    "    .claims = claims,\n"
    "    .form_of = form_of,\n"
    "    .cut = cut,\n"
    "    .read = read_rows,\n"
    "};\n"
    "\n";

static const char device[] =
    "static tn_status open_device(void *self, uint32_t index, void **dev, tn_err *err)\n"
    "{\n"
    "    if (index != 0)\n"
    "        return tn_fail(err, TN_UNAVAILABLE, \"@: no device %u; expected 0\", index);\n"
    "    *dev = self;\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "static void close_device(void *dev)\n"
    "{\n"
    "    (void)dev;\n"
    "}\n"
    "\n"
    "static tn_status info(void *dev, tn_device_info *out, tn_err *err)\n"
    "{\n"
    "    (void)dev;\n"
    "    (void)err;\n"
    "    *out = (tn_device_info){.size = sizeof *out, .ndevice = 1, .block_tokens = 16,\n"
    "                            .host_memory = 1, .name = \"@\", .arch = \"none\"};\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "/* Learn operation after operation; what is not known is refused by name. */\n"
    "static tn_status compile(void *dev, const tn_recipe *r, const tn_limits *l, void **program,\n"
    "                         tn_need *need, tn_err *err)\n"
    "{\n"
    "    (void)dev;\n"
    "    (void)l;\n"
    "    (void)program;\n"
    "    (void)need;\n"
    "    return tn_fail(err, TN_UNSUPPORTED, \"@: operation %s (kind %u) is not offered\",\n"
    "                   r->op[0].name, r->op[0].kind);\n"
    "}\n"
    "\n"
    "static tn_status reserve(void *program, const tn_pools *pools, tn_err *err)\n"
    "{\n"
    "    (void)program;\n"
    "    (void)pools;\n"
    "    return tn_fail(err, TN_UNSUPPORTED, \"@: nothing to reserve\");\n"
    "}\n"
    "\n"
    "static tn_status pack(void *program, uint32_t w, const tn_reader *reader, tn_err *err)\n"
    "{\n"
    "    (void)program;\n"
    "    (void)w;\n"
    "    (void)reader;\n"
    "    return tn_fail(err, TN_UNSUPPORTED, \"@: nothing to pack\");\n"
    "}\n"
    "\n"
    "static void release(void *program)\n"
    "{\n"
    "    (void)program;\n"
    "}\n"
    "\n"
    "static tn_status run(void *program, const tn_step *step, tn_err *err)\n"
    "{\n"
    "    (void)program;\n"
    "    (void)step;\n"
    "    return tn_fail(err, TN_UNSUPPORTED, \"@: nothing to run\");\n"
    "}\n"
    "\n"
    "static tn_status wait_for(void *program, uint64_t number, uint32_t poll,\n"
    "                          const tn_results **out, tn_err *err)\n"
    "{\n"
    "    (void)program;\n"
    "    (void)number;\n"
    "    (void)poll;\n"
    "    (void)out;\n"
    "    return tn_fail(err, TN_UNSUPPORTED, \"@: nothing to wait for\");\n"
    "}\n"
    "\n"
    "static const tn_device table = {\n"
    "    .size = sizeof(tn_device),\n"
    "    .open = open_device,\n"
    "    .close = close_device,\n"
    "    .info = info,\n"
    "    .compile = compile,\n"
    "    .reserve = reserve,\n"
    "    .pack = pack,\n"
    "    .release = release,\n"
    "    .run = run,\n"
    "    .wait = wait_for,\n"
    "};\n"
    "\n";

static const char comm[] =
    "/* A group of one: every sum is what it was. */\n"
    "static tn_status make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err)\n"
    "{\n"
    "    (void)self;\n"
    "    (void)err;\n"
    "    memset(id, 0, TN_COMM_ID_SIZE);\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "static tn_status join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank,\n"
    "                      uint32_t nrank, uint32_t device, uint32_t timeout_ms, void **group,\n"
    "                      tn_err *err)\n"
    "{\n"
    "    (void)id;\n"
    "    (void)device;\n"
    "    (void)timeout_ms;\n"
    "    if (rank != 0 || nrank != 1)\n"
    "        return tn_fail(err, TN_UNSUPPORTED, \"@: rank %u of %u; expected one rank\", rank,\n"
    "                       nrank);\n"
    "    *group = self;\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "static tn_status all_reduce(void *group, void *x, uint64_t count, uint32_t dtype,\n"
    "                            void *stream, tn_err *err)\n"
    "{\n"
    "    (void)group;\n"
    "    (void)x;\n"
    "    (void)count;\n"
    "    (void)dtype;\n"
    "    (void)stream;\n"
    "    (void)err;\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "static tn_status all_gather(void *group, const void *in, void *out, uint64_t count,\n"
    "                            uint32_t dtype, void *stream, tn_err *err)\n"
    "{\n"
    "    (void)group;\n"
    "    (void)stream;\n"
    "    if (dtype != TN_F32)\n"
    "        return tn_fail(err, TN_UNSUPPORTED, \"@: data type %u; expected f32\", dtype);\n"
    "    memcpy(out, in, count * 4);\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "static tn_status broadcast(void *group, void *x, uint64_t bytes, uint32_t root, void *stream,\n"
    "                           tn_err *err)\n"
    "{\n"
    "    (void)group;\n"
    "    (void)x;\n"
    "    (void)bytes;\n"
    "    (void)root;\n"
    "    (void)stream;\n"
    "    (void)err;\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "static void abort_group(void *group)\n"
    "{\n"
    "    (void)group;\n"
    "}\n"
    "\n"
    "static const tn_comm table = {\n"
    "    .size = sizeof(tn_comm),\n"
    "    .flags = TN_COMM_HOST,\n"
    "    .make_id = make_id,\n"
    "    .join = join,\n"
    "    .all_reduce = all_reduce,\n"
    "    .all_gather = all_gather,\n"
    "    .broadcast = broadcast,\n"
    "    .abort = abort_group,\n"
    "    .leave = abort_group,\n"
    "};\n"
    "\n";

static const char front[] =
    "static const tn_front table = {\n"
    "    .size = sizeof(tn_front),\n"
    "};\n"
    "\n";

static const char tail[] =
    "static tn_status init(const tn_host *h, void **self, tn_err *err)\n"
    "{\n"
    "    (void)err;\n"
    "    *self = (void *)(uintptr_t)h; /* all your state hangs on *self */\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "static tn_status start(void *self, tn_err *err)\n"
    "{\n"
    "    (void)self;\n"
    "    (void)err;\n"
    "    return TN_OK;\n"
    "}\n"
    "\n"
    "static void stop(void *self)\n"
    "{\n"
    "    (void)self;\n"
    "}\n"
    "\n"
    "const tn_plugin tn_plugin_entry = {\n"
    "    .abi_major = TN_ABI_MAJOR,\n"
    "    .abi_minor = TN_ABI_MINOR,\n"
    "    .size = sizeof(tn_plugin),\n"
    "    .kind = #,\n"
    "    .name = \"@\",\n"
    "    .version = \"0.1\",\n"
    "    .summary = \"Says in one sentence what this plugin is.\",\n"
    "    .table = &table,\n"
    "    .init = init,\n"
    "    .start = start,\n"
    "    .stop = stop,\n"
    "};\n";

static const struct {
    const char *kind, *constant, *body;
} starters[] = {
    {"quant", "TN_KIND_QUANT", quant},
    {"device", "TN_KIND_DEVICE", device},
    {"comm", "TN_KIND_COMM", comm},
    {"front", "TN_KIND_FRONT", front},
};

/* A template with `@` and `#` filled in. */
static void put(tn_buf *out, const char *text, const char *name, const char *constant)
{
    for (; *text != 0; text++) {
        if (*text == '@')
            tn_buf_puts(out, name);
        else if (*text == '#' && constant != NULL)
            tn_buf_puts(out, constant);
        else
            tn_buf_putc(out, *text);
    }
}

static tn_status write_new(const char *path, const tn_buf *text, tn_err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return tn_fail(err, TN_CANTCREATE, "%s: cannot be created: %s", path, strerror(errno));
    size_t done = 0;
    while (done < text->len) {
        ssize_t n = write(fd, text->data + done, text->len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    if (close(fd) == 0 && done == text->len)
        return TN_OK;
    tn_status st = tn_fail(err, TN_IO, "%s: cannot be written: %s", path, strerror(errno));
    unlink(path);
    return st;
}

tn_status tn_plugin_new(const char *name, const char *kind, tn_err *err)
{
    char path[64];
    size_t k = 0, n = sizeof starters / sizeof starters[0];
    if (!tn_conf_is_name(TN_CONF_PLUGIN, name))
        return tn_fail(err, TN_USAGE, "plugin new: the name %.64s; expected [a-z][a-z0-9_-]* of at "
                       "most 32 bytes", name);
    while (k < n && strcmp(starters[k].kind, kind) != 0)
        k++;
    if (k == n)
        return tn_fail(err, TN_USAGE, "plugin new: --kind %.64s; expected quant, device, comm or "
                       "front", kind);
    tn_buf b;
    tn_buf_open(&b, 1 << 16);
    put(&b, head, name, NULL);
    put(&b, starters[k].body, name, NULL);
    put(&b, tail, name, starters[k].constant);
    snprintf(path, sizeof path, "%s.c", name);
    tn_status st = b.failed ? tn_fail(err, TN_OS, "plugin new: out of memory")
                            : write_new(path, &b, err);
    tn_buf_close(&b);
    return st;
}
