/* h5.c - locking, error texts and attributes: what h5.h promises. */
#include "result/h5.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A reader of a growing file tries again while a checksum is wrong, after twice the time each time, from 1
 * ns: 0.1 s in all. HDF5's own 100 attempts would take longer than anybody lives where a file is damaged. */
enum { READ_ATTEMPTS = 27, PAGE_BYTES = 4096 };
/* Another program may have a file open for writing for a moment. */
enum { OPEN_TRIES = 11, OPEN_PAUSE_MS = 100 };

static pthread_mutex_t inside = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t prepared = PTHREAD_ONCE_INIT;

/* A paged file has an object that HDF5 makes by the default properties, and the clock is in no file of ours.
 */
static void prepare(void) {
    H5dont_atexit();
    H5Pset_obj_track_times(H5P_GROUP_CREATE_DEFAULT, false);
}

void h5_enter(void) {
    pthread_mutex_lock(&inside);
    pthread_once(&prepared, prepare);
    /* The error stack, and whether it prints itself, belong to a thread. */
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void h5_leave(void) {
    H5Eclear2(H5E_DEFAULT); /* a thread that ends does not free its stack's texts */
    pthread_mutex_unlock(&inside);
}

enum { REASON_BYTES = 200 };

/* The innermost entry knows the cause; where it is the system's, only its own words are of use to the user.
 */
static herr_t take_reason(unsigned n, const H5E_error2_t *entry, void *data) {
    char *reason = data;
    const char *begin = entry->desc ? strstr(entry->desc, "error message = '") : NULL;
    if (begin) {
        begin += strlen("error message = '");
        snprintf(reason, REASON_BYTES, "%.*s", (int)strcspn(begin, "'"), begin);
        return 1;
    }
    if (n == 0 && entry->desc) snprintf(reason, REASON_BYTES, "%s", entry->desc);
    return 0;
}

int h5_failed(h5_error *error, const char *format, ...) {
    if (error->text[0]) return -1;
    char reason[REASON_BYTES] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_reason, reason);
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    if (used < 0 || (size_t)used >= sizeof error->text || !reason[0]) return -1;
    snprintf(error->text + used, sizeof error->text - (size_t)used, " (%s)", reason);
    return -1;
}

exit_code h5_problem(const h5_error *error, const char *path, const char *otherwise, problems *list) {
    if (error->busy) return problem(list, EXIT_ENVIRONMENT, "%s: %s", path, error->text);
    return problem(list, EXIT_INPUT, "%s: %s; %s", path, error->text, otherwise);
}

hid_t h5_object_properties(hid_t list_class, h5_error *error) {
    hid_t properties = H5Pcreate(list_class);
    if (properties < 0 || H5Pset_obj_track_times(properties, false) < 0)
        return h5_failed(error, "cannot prepare an HDF5 object");
    return properties;
}

static hid_t file_access(h5_error *error) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    /* Locks keep two writers apart, but some network file systems have none: those go without. */
    if (access < 0 || H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0 ||
        H5Pset_file_locking(access, true, true) < 0 ||
        H5Pset_metadata_read_attempts(access, READ_ATTEMPTS) < 0)
        return h5_failed(error, "cannot prepare HDF5 file access");
    return access;
}

/* Whatever HDF5 updates in place lies within one page of the system, so that a process that is killed writes
 * it whole or not at all. */
static hid_t file_creation(h5_error *error) {
    hid_t creation = h5_object_properties(H5P_FILE_CREATE, error);
    if (creation < 0 || H5Pset_file_space_strategy(creation, H5F_FSPACE_STRATEGY_PAGE, false, 1) < 0 ||
        H5Pset_file_space_page_size(creation, PAGE_BYTES) < 0)
        return h5_failed(error, "cannot prepare an HDF5 file");
    return creation;
}

hid_t h5_create_file(const char *path, h5_error *error) {
    hid_t access = file_access(error), creation = file_creation(error);
    if (access < 0 || creation < 0) return -1;
    /* For the whole file, because H5Fstart_swmr_write() forgets what single datasets asked for. */
    H5Pset_cache(access, 0, 1, H5_CHUNK_BYTES, 1.0);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    if (file < 0) h5_failed(error, "cannot create %s", path);
    H5Pclose(access);
    H5Pclose(creation);
    return file;
}

/* Notes that the file which could not be opened is in use: another program holds its lock, or has left its
 * mark in it (which outlives a program that is killed). */
static bool is_open_elsewhere(h5_error *error) {
    char reason[REASON_BYTES] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_reason, reason);
    bool locked = strcmp(reason, strerror(EWOULDBLOCK)) == 0,
         marked = strstr(reason, "already open for") != NULL;
    if (locked)
        snprintf(error->text, sizeof error->text,
                 "another program has it open for writing; close it there, then try again");
    if (marked)
        snprintf(error->text, sizeof error->text,
                 "another program has it open for writing; close it there, then try again, or, if that "
                 "program was killed, keep a copy and "
                 "clear its mark with h5clear --status");
    error->busy = locked || marked;
    return error->busy;
}

hid_t h5_open_file(const char *path, bool swmr, h5_error *error) {
    const struct timespec pause = {.tv_nsec = OPEN_PAUSE_MS * 1000000L};
    h5_error busy = {0};
    hid_t access = file_access(error), file = -1;
    if (access < 0) return -1;
    for (int i = 0; i < OPEN_TRIES; i++) {
        if (i > 0) nanosleep(&pause, NULL);
        H5Eclear2(H5E_DEFAULT);
        file = H5Fopen(path, H5F_ACC_RDONLY | (swmr ? H5F_ACC_SWMR_READ : 0), access);
        busy = (h5_error){0};
        if (file >= 0 || !is_open_elsewhere(&busy)) break;
    }
    if (file < 0 && busy.busy && !error->text[0]) *error = busy;
    if (file < 0) h5_failed(error, "cannot open %s", path);
    H5Pclose(access);
    return file;
}

hid_t h5_create_group(hid_t file, const char *path, h5_error *error) {
    hid_t properties = h5_object_properties(H5P_GROUP_CREATE, error);
    if (properties < 0) return -1;
    hid_t group = H5Gcreate2(file, path, H5P_DEFAULT, properties, H5P_DEFAULT);
    if (group < 0) return h5_failed(error, "cannot create %s", path);
    H5Pclose(properties);
    return group;
}

hid_t h5_create_dataset(hid_t file, const char *path, hid_t type, hid_t space, hid_t properties,
                        h5_error *error) {
    hid_t dataset = H5Dcreate2(file, path, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    if (dataset < 0) h5_failed(error, "cannot create %s", path);
    return dataset;
}

int h5_write_scalar(hid_t object, const char *name, hid_t type, const void *value, h5_error *error) {
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (space < 0 || attribute < 0 || H5Awrite(attribute, type, value) < 0 || H5Aclose(attribute) < 0)
        return h5_failed(error, "cannot write the attribute %s", name);
    H5Sclose(space);
    return 0;
}

int h5_write_text(hid_t object, const char *name, const char *text, h5_error *error) {
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type < 0 || H5Tset_size(type, strlen(text) + 1) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)
        return h5_failed(error, "cannot describe the attribute %s", name);
    if (h5_write_scalar(object, name, type, text, error)) return -1;
    H5Tclose(type);
    return 0;
}

int h5_read_scalar(hid_t object, const char *name, hid_t type, void *value, h5_error *error) {
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    int status = 0;
    if (attribute < 0 || H5Aread(attribute, type, value) < 0)
        status = h5_failed(error, "cannot read the attribute %s", name);
    if (attribute >= 0) H5Aclose(attribute);
    return status;
}

char *h5_read_text(hid_t object, const char *name, h5_error *error) {
    char *text = NULL;
    hid_t type = -1, attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (attribute < 0 || (type = H5Aget_type(attribute)) < 0) goto cleanup;
    if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0) goto cleanup;
    text = calloc(1, H5Tget_size(type) + 1);
    if (text && H5Aread(attribute, type, text) < 0) {
        free(text);
        text = NULL;
    }
cleanup:
    if (!text) h5_failed(error, "cannot read the attribute %s", name);
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return text;
}

hid_t h5_create_array(hid_t file, const char *path, hid_t type, hsize_t count, h5_error *error) {
    hid_t properties = h5_object_properties(H5P_DATASET_CREATE, error),
          space = H5Screate_simple(1, &count, NULL);
    if (properties < 0) return -1;
    hid_t dataset = h5_create_dataset(file, path, type, space, properties, error);
    H5Sclose(space);
    H5Pclose(properties);
    return dataset;
}
