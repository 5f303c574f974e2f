/* SPDX-License-Identifier: Apache-2.0 */
/* elffile.c - what a shared object says about itself, read from the file without loading it.
 *
 * Every table is copied into memory of its own, under a ceiling, before it is looked at: the
 * file may be hostile or change meanwhile, and an offset is good only after its check. */
#include "elffile.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PARTS_MAX 128u             /* program headers */
#define SECTIONS_MAX 4096u
#define TABLE_MAX (64u << 20)      /* bytes of one table */
#define PLUGIN_SIZE_1_0 (offsetof(tn_plugin, stop) + sizeof(void (*)(void)))

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#define RELATIVE R_X86_64_RELATIVE
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
#define RELATIVE R_AARCH64_RELATIVE
#elif defined(__riscv)
#define MACHINE EM_RISCV
#define RELATIVE R_RISCV_RELATIVE
#elif defined(__powerpc64__)
#define MACHINE EM_PPC64
#define RELATIVE R_PPC64_RELATIVE
#else
#error "add this machine's ELF number and its relative relocation"
#endif
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BYTE_ORDER_WANTED ELFDATA2LSB
#else
#define BYTE_ORDER_WANTED ELFDATA2MSB
#endif

typedef struct file {
    int fd;
    uint64_t size;
    const char *path;
    tn_err *err;
    Elf64_Phdr *part;    /* owned */
    uint32_t npart;
    Elf64_Shdr *section; /* owned */
    uint32_t nsection;
} file;

static tn_status fail(const file *f, const char *what)
{
    return tn_fail(f->err, TN_UNAVAILABLE, "plugin %s: %s", f->path, what);
}

/* -------------------------------------------------------------------------------- reading */

static bool read_at(const file *f, uint64_t offset, void *to, size_t n)
{
    size_t got = 0;
    if (offset > f->size || n > f->size - offset)
        return false;
    while (got < n) {
        ssize_t r = pread(f->fd, (char *)to + got, n - got, (off_t)(offset + got));
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return false;
        got += (size_t)r;
    }
    return true;
}

/* A copy of `size` bytes with a NUL behind them; NULL when that cannot be. */
static void *copy_of(const file *f, uint64_t offset, uint64_t size)
{
    if (size > TABLE_MAX || size > f->size)
        return NULL;
    char *data = malloc((size_t)size + 1);
    if (data != NULL && !read_at(f, offset, data, (size_t)size)) {
        free(data);
        return NULL;
    }
    if (data != NULL)
        data[size] = 0;
    return data;
}

static void *section_data(const file *f, const Elf64_Shdr *s)
{
    return s->sh_type == SHT_NOBITS ? NULL : copy_of(f, s->sh_offset, s->sh_size);
}

static tn_status read_header(file *f, Elf64_Ehdr *h)
{
    unsigned char id[EI_NIDENT];
    if (!read_at(f, 0, id, sizeof id) || memcmp(id, ELFMAG, SELFMAG) != 0)
        return fail(f, "no ELF file; expected a shared object");
    if (id[EI_CLASS] != ELFCLASS64)
        return fail(f, "a 32-bit file; expected 64 bits");
    if (id[EI_DATA] != BYTE_ORDER_WANTED)
        return fail(f, "the other byte order; expected this machine's");
    if (!read_at(f, 0, h, sizeof *h))
        return fail(f, "cut off inside the ELF header");
    if (h->e_machine != MACHINE)
        return tn_fail(f->err, TN_UNAVAILABLE, "plugin %s: built for machine %u; expected %u",
                       f->path, h->e_machine, MACHINE);
    if (h->e_type != ET_DYN)
        return fail(f, "no shared object; expected one built with -shared");
    if (h->e_phentsize != sizeof(Elf64_Phdr) || h->e_phnum == 0 || h->e_phnum > PARTS_MAX)
        return fail(f, "no usable program headers");
    if (h->e_shnum == 0 || h->e_shentsize != sizeof(Elf64_Shdr) || h->e_shnum > SECTIONS_MAX)
        return fail(f, "no usable section headers");
    return TN_OK;
}

static tn_status read_tables(file *f)
{
    Elf64_Ehdr h;
    tn_status st = read_header(f, &h);
    if (st != TN_OK)
        return st;
    f->npart = h.e_phnum;
    f->part = copy_of(f, h.e_phoff, (uint64_t)h.e_phnum * sizeof(Elf64_Phdr));
    f->nsection = h.e_shnum;
    f->section = copy_of(f, h.e_shoff, (uint64_t)h.e_shnum * sizeof(Elf64_Shdr));
    if (f->part == NULL || f->section == NULL)
        return fail(f, "cut off: its headers lie past its end");
    return TN_OK;
}

/* Bytes at an address as they will lie in memory before relocation; past the part's file
 * bytes memory is zero. */
static bool read_memory(const file *f, uint64_t addr, void *to, size_t n)
{
    for (uint32_t i = 0; i < f->npart; i++) {
        const Elf64_Phdr *p = &f->part[i];
        if (p->p_type != PT_LOAD || addr < p->p_vaddr || addr - p->p_vaddr >= p->p_memsz)
            continue;
        uint64_t at = addr - p->p_vaddr;
        if (n > p->p_memsz - at)
            return false;
        memset(to, 0, n);
        size_t in_file = at >= p->p_filesz ? 0
                       : p->p_filesz - at < n ? (size_t)(p->p_filesz - at) : n;
        if (p->p_offset > UINT64_MAX - at)
            return false;
        return in_file == 0 || read_at(f, p->p_offset + at, to, in_file);
    }
    return false;
}

/* Can nothing write there once the library is loaded? */
static bool is_constant(const file *f, uint64_t addr, uint64_t size)
{
    for (uint32_t i = 0; i < f->npart; i++) {
        const Elf64_Phdr *p = &f->part[i];
        bool fixed = p->p_type == PT_GNU_RELRO
                  || (p->p_type == PT_LOAD && (p->p_flags & PF_W) == 0);
        if (fixed && addr >= p->p_vaddr && addr - p->p_vaddr <= p->p_memsz
            && size <= p->p_memsz - (addr - p->p_vaddr))
            return true;
    }
    return false;
}

/* -------------------------------------------------------------------------------- symbols */

static bool keep(char ***list, uint32_t *n, const char *text)
{
    if (*n >= TN_ELF_SYMBOLS_MAX)
        return true;
    if (*n % 64 == 0) {
        char **more = realloc(*list, (*n + 64) * sizeof *more);
        if (more == NULL)
            return false;
        *list = more;
    }
    char *copy = strndup(text, 512);
    if (copy == NULL)
        return false;
    (*list)[(*n)++] = copy;
    return true;
}

/* The dynamic symbols and their names; both owned by the caller. */
static tn_status load_symbols(const file *f, Elf64_Sym **symbols, uint64_t *n, char **names,
                              uint64_t *names_size)
{
    for (uint32_t i = 0; i < f->nsection; i++) {
        const Elf64_Shdr *s = &f->section[i];
        if (s->sh_type != SHT_DYNSYM)
            continue;
        if (s->sh_entsize != sizeof(Elf64_Sym) || s->sh_link >= f->nsection)
            return fail(f, "a broken table of symbols");
        const Elf64_Shdr *text = &f->section[s->sh_link];
        *symbols = section_data(f, s);
        *names = section_data(f, text);
        *n = s->sh_size / sizeof(Elf64_Sym);
        *names_size = text->sh_size;
        if (*symbols == NULL || *names == NULL)
            return fail(f, "cut off: its symbols lie past its end");
        return TN_OK;
    }
    return fail(f, "no table of dynamic symbols");
}

static tn_status look_at_symbols(const file *f, tn_elf *e, const Elf64_Sym *symbols, uint64_t n,
                                 const char *names, uint64_t names_size, Elf64_Sym *entry)
{
    bool found = false, kept = true;
    for (uint64_t i = 1; i < n && kept; i++) {
        const Elf64_Sym *s = &symbols[i];
        uint32_t bind = ELF64_ST_BIND(s->st_info);
        if (s->st_name >= names_size || bind == STB_LOCAL)
            continue;
        const char *name = names + s->st_name;
        if (s->st_shndx == SHN_UNDEF) {
            e->asan = e->asan || strcmp(name, "__asan_init") == 0;
            kept = bind == STB_WEAK || keep(&e->undefined, &e->nundefined, name);
            continue;
        }
        kept = keep(&e->exported, &e->nexported, name);
        if (strcmp(name, "tn_plugin_entry") == 0) {
            *entry = *s;
            found = true;
        }
    }
    if (!kept)
        return tn_fail(f->err, TN_OS, "plugin %s: out of memory", f->path);
    return found ? TN_OK : fail(f, "does not export tn_plugin_entry; is it a tenon plugin?");
}

static tn_status check_entry(const file *f, const Elf64_Sym *s)
{
    if (ELF64_ST_TYPE(s->st_info) != STT_OBJECT)
        return fail(f, "tn_plugin_entry is no data; expected a const tn_plugin");
    if (s->st_size < PLUGIN_SIZE_1_0)
        return tn_fail(f->err, TN_UNAVAILABLE,
                       "plugin %s: tn_plugin_entry has %llu bytes; expected %zu or more", f->path,
                       (unsigned long long)s->st_size, PLUGIN_SIZE_1_0);
    if (!is_constant(f, s->st_value, s->st_size))
        return fail(f, "tn_plugin_entry can be written to; expected it const (and -z relro)");
    return TN_OK;
}

/* ----------------------------------------------------------------------------- the entry */

/* The address a pointer at `addr` will hold, relative to the library; 0 when it depends on
 * other libraries. A relocation with addend says it; without one the word in the file does. */
static uint64_t pointer_at(const file *f, uint64_t addr)
{
    uint64_t word = 0;
    for (uint32_t i = 0; i < f->nsection; i++) {
        const Elf64_Shdr *s = &f->section[i];
        if (s->sh_type != SHT_RELA || s->sh_entsize != sizeof(Elf64_Rela))
            continue;
        Elf64_Rela *r = section_data(f, s);
        uint64_t n = r == NULL ? 0 : s->sh_size / sizeof *r;
        for (uint64_t j = 0; j < n; j++)
            if (r[j].r_offset == addr) {
                word = ELF64_R_TYPE(r[j].r_info) == RELATIVE ? (uint64_t)r[j].r_addend : 0;
                free(r);
                return word;
            }
        free(r);
    }
    return read_memory(f, addr, &word, sizeof word) ? word : 0;
}

static void read_name(const file *f, uint64_t entry, tn_elf *e)
{
    uint64_t at = pointer_at(f, entry + offsetof(tn_plugin, name));
    for (size_t i = 0; at != 0 && i + 1 < sizeof e->name; i++) {
        if (!read_memory(f, at + i, &e->name[i], 1)) {
            e->name[0] = 0;
            return;
        }
        if (e->name[i] == 0)
            return;
    }
}

static tn_status read_entry(const file *f, const Elf64_Sym *s, tn_elf *e)
{
    size_t n = s->st_size < sizeof e->entry ? (size_t)s->st_size : sizeof e->entry;
    tn_plugin raw = {.size = 0};
    if (!read_memory(f, s->st_value, &raw, n))
        return fail(f, "cut off: tn_plugin_entry lies past its end");
    e->entry_size = s->st_size;
    e->entry = (tn_plugin){.abi_major = raw.abi_major, .abi_minor = raw.abi_minor,
                           .size = raw.size, .kind = raw.kind, .noption = raw.noption};
    if (raw.abi_major != TN_ABI_MAJOR)
        return TN_OK; /* what follows means something else there */
    read_name(f, s->st_value, e);
    uint64_t table = pointer_at(f, s->st_value + offsetof(tn_plugin, table));
    if (table == 0 || !read_memory(f, table, &e->table_size, sizeof e->table_size))
        e->table_size = 0;
    return TN_OK;
}

/* -------------------------------------------------------------------------------- dynamic */

static tn_status put_path(tn_elf *e, const char *more, const file *f)
{
    size_t a = strlen(e->run_path), b = strlen(more);
    char *joined = realloc(e->run_path, a + b + 2);
    if (joined == NULL)
        return tn_fail(f->err, TN_OS, "plugin %s: out of memory", f->path);
    if (a > 0)
        joined[a++] = ':';
    memcpy(joined + a, more, b + 1);
    e->run_path = joined;
    return TN_OK;
}

static tn_status look_at_entry(const file *f, const Elf64_Dyn *d, const char *names, uint64_t n,
                               tn_elf *e)
{
    if (d->d_tag == DT_FLAGS_1 && (d->d_un.d_val & DF_1_NOOPEN) != 0)
        return fail(f, "linked with -z nodlopen; expected a library that may be loaded");
    if (d->d_un.d_val >= n)
        return TN_OK;
    const char *text = names + d->d_un.d_val;
    if (d->d_tag == DT_NEEDED && !keep(&e->needed, &e->nneeded, text))
        return tn_fail(f->err, TN_OS, "plugin %s: out of memory", f->path);
    if (d->d_tag == DT_RPATH || d->d_tag == DT_RUNPATH)
        return put_path(e, text, f);
    return TN_OK;
}

static tn_status read_dynamic(const file *f, tn_elf *e)
{
    tn_status st = TN_OK;
    for (uint32_t i = 0; i < f->nsection && st == TN_OK; i++) {
        const Elf64_Shdr *s = &f->section[i];
        if (s->sh_type != SHT_DYNAMIC || s->sh_link >= f->nsection)
            continue;
        Elf64_Dyn *d = section_data(f, s);
        char *names = section_data(f, &f->section[s->sh_link]);
        uint64_t n = d == NULL || names == NULL ? 0 : s->sh_size / sizeof *d;
        for (uint64_t j = 0; j < n && d[j].d_tag != DT_NULL && st == TN_OK; j++)
            st = look_at_entry(f, &d[j], names, f->section[s->sh_link].sh_size, e);
        free(d);
        free(names);
    }
    return st;
}

/* An element that is empty or relative makes the loader look into the working directory. */
static tn_status check_run_path(const file *f, const tn_elf *e)
{
    for (const char *s = e->run_path; *s != 0;) {
        size_t n = strcspn(s, ":");
        if (n == 0 || (s[0] != '/' && s[0] != '$'))
            return fail(f, "its RPATH searches the working directory; expected absolute folders");
        s += n;
        if (*s == ':' && *++s == 0)
            return fail(f, "its RPATH has an empty element; expected absolute folders");
    }
    return TN_OK;
}

/* ------------------------------------------------------------------------- open and close */

static tn_status read_all(file *f, tn_elf *e)
{
    Elf64_Sym *symbols = NULL, entry = {.st_name = 0};
    char *names = NULL;
    uint64_t n = 0, names_size = 0;
    tn_status st = read_tables(f);
    if (st == TN_OK)
        st = load_symbols(f, &symbols, &n, &names, &names_size);
    if (st == TN_OK)
        st = look_at_symbols(f, e, symbols, n, names, names_size, &entry);
    if (st == TN_OK)
        st = check_entry(f, &entry);
    if (st == TN_OK)
        st = read_entry(f, &entry, e);
    if (st == TN_OK)
        st = read_dynamic(f, e);
    if (st == TN_OK)
        st = check_run_path(f, e);
    free(symbols);
    free(names);
    free(f->part);
    free(f->section);
    return st;
}

tn_status tn_elf_open(const char *path, tn_elf *out, tn_err *err)
{
    struct stat s;
    file f = {.path = path, .err = err};
    tn_elf e = {.dev = 0};
    f.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (f.fd < 0)
        return tn_fail(err, errno == ENOENT ? TN_NOINPUT : TN_UNAVAILABLE,
                       "plugin %s: cannot be opened: %s", path, strerror(errno));
    tn_status st = TN_OK;
    if (fstat(f.fd, &s) != 0 || !S_ISREG(s.st_mode))
        st = fail(&f, "not a regular file; expected a shared object");
    if (st == TN_OK && (e.run_path = strdup("")) == NULL)
        st = tn_fail(err, TN_OS, "plugin %s: out of memory", path);
    if (st == TN_OK) {
        f.size = (uint64_t)s.st_size;
        e.dev = (uint64_t)s.st_dev;
        e.ino = (uint64_t)s.st_ino;
        st = read_all(&f, &e);
    }
    close(f.fd);
    if (st != TN_OK) {
        tn_elf_close(&e);
        return st;
    }
    *out = e;
    return TN_OK;
}

static void free_list(char **list, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        free(list[i]);
    free(list);
}

void tn_elf_close(tn_elf *e)
{
    free_list(e->undefined, e->nundefined);
    free_list(e->exported, e->nexported);
    free_list(e->needed, e->nneeded);
    free(e->run_path);
    *e = (tn_elf){.dev = 0};
}
