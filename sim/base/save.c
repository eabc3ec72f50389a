/* base_model -> a Hugging Face GPT-2 folder. It is written under another name, then put in place by one rename, so that the folder
 * is at every moment absent, the old one, or the new one. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/tensors.h"
#include "writable.h"

static const char *const files[] = {"model.safetensors", "config.json"};
enum { FILES = 2 };

typedef struct {
    char *folder, *parent, *partial;
    char *weights, *config; /* in partial */
} save_paths;

static void free_paths(save_paths *p) {
    free(p->folder);
    free(p->parent);
    free(p->partial);
    free(p->weights);
    free(p->config);
}

static char *in_folder(const char *folder, const char *name) {
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static bool make_paths(save_paths *p, const char *folder) {
    *p = (save_paths){.folder = strdup(folder)};
    if (!p->folder) return false;
    size_t n = strlen(p->folder);
    while (n > 1 && p->folder[n - 1] == '/') p->folder[--n] = 0;
    const char *slash = strrchr(p->folder, '/');
    p->parent = !slash ? strdup(".") : slash == p->folder ? strdup("/") : strndup(p->folder, (size_t)(slash - p->folder));
    if (!p->parent) return false;
    if (asprintf(&p->partial, "%s.partial.%ld", p->folder, (long)getpid()) < 0) p->partial = NULL;
    p->weights = p->partial ? in_folder(p->partial, files[0]) : NULL;
    p->config = p->partial ? in_folder(p->partial, files[1]) : NULL;
    return p->weights && p->config;
}

/* mkdir -p */
static bool make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        bool ok = mkdir(path, 0777) == 0 || errno == EEXIST;
        *slash = '/';
        if (!ok) return false;
    }
    return mkdir(path, 0777) == 0 || errno == EEXIST;
}

static bool sync_folder(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return false;
    bool ok = fsync(fd) == 0;
    close(fd);
    return ok;
}

/* Only a folder that holds nothing but an earlier base may be replaced. */
static exit_code check_replaceable(const char *folder, problems *list) {
    exit_code code = EXIT_OK;
    DIR *entries = opendir(folder);
    if (!entries && errno == ENOENT) return EXIT_OK;
    if (!entries) return problem(list, EXIT_INPUT, "%s: a base cannot be saved there: %s", folder, strerror(errno));
    for (struct dirent *e = readdir(entries); e && !code; e = readdir(entries)) {
        bool ours = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
        for (int i = 0; i < FILES; i++) ours |= !strcmp(e->d_name, files[i]);
        if (!ours) code = problem(list, EXIT_INPUT, "%s: holds other files than a base; name a new or an empty folder", folder);
    }
    closedir(entries);
    return code;
}

exit_code base_check_place(const char *folder, problems *list) {
    exit_code code = writable_check(folder, "a base", list);
    return code == EXIT_OK ? check_replaceable(folder, list) : code;
}

static void remove_partial(const save_paths *p) {
    unlink(p->weights);
    unlink(p->config);
    rmdir(p->partial);
}

static bool put_in_place(const save_paths *p) {
    if (rename(p->partial, p->folder) == 0) return true;
    if (errno != ENOTEMPTY && errno != EEXIST) return false;
    if (renameat2(AT_FDCWD, p->partial, AT_FDCWD, p->folder, RENAME_EXCHANGE)) return false;
    remove_partial(p);
    return true;
}

exit_code base_save(const base_model *model, const char *folder, problems *list) {
    save_paths p;
    int n = base_tensor_count(&model->shape);
    packed_tensor *tensors = base_tensor_list(&model->shape, &model->layout, "transformer.");
    exit_code code = EXIT_OK;
    bool made = false;
    if (!make_paths(&p, folder) || !tensors) {
        code = problem(list, EXIT_ENVIRONMENT, "%s: no memory to save a base", folder);
        goto cleanup;
    }
    code = check_replaceable(p.folder, list);
    if (code) goto cleanup;
    made = make_folders(p.parent) && make_folders(p.partial);
    if (!made) {
        code = problem(list, EXIT_ENVIRONMENT, "%s: cannot be made: %s", p.partial, strerror(errno));
        goto cleanup;
    }
    code = safetensors_write(p.weights, tensors, n, model->weights, list);
    if (!code) code = base_config_write(p.config, &model->shape, list);
    if (!code && (!sync_folder(p.partial) || !put_in_place(&p) || !sync_folder(p.parent)))
        code = problem(list, EXIT_ENVIRONMENT, "%s: cannot be put in place: %s", folder, strerror(errno));
    if (code) remove_partial(&p);
cleanup:
    free_paths(&p);
    free(tensors);
    return code;
}
