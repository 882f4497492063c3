/* Preloaded into an agent and its workers: clocks and a /proc that say what a test wants. LIE is one of
 *
 *   jump      the wall clock runs twice as fast as the monotonic one
 *   sleep     boot time and wall clock run half as fast again, as where the device sleeps between two looks
 *   shift=S   the wall clock is so many seconds ahead
 *   swap=FILE /proc/self/status is read from that file
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char* lie(void) {
  const char* told = getenv("LIE");
  return told ? told : "";
}

int clock_gettime(clockid_t id, struct timespec* t) {
  static int (*real)(clockid_t, struct timespec*);
  if (!real) real = (int (*)(clockid_t, struct timespec*))dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(id, t);
  if (!failed && id == CLOCK_REALTIME && !strncmp(lie(), "shift=", 6)) t->tv_sec += atol(lie() + 6);
  long share = !strcmp(lie(), "jump") && id == CLOCK_REALTIME ? 2
               : !strcmp(lie(), "sleep") && (id == CLOCK_REALTIME || id == CLOCK_BOOTTIME) ? 1 : 0;
  if (failed || !share) return failed;
  struct timespec since;
  real(CLOCK_MONOTONIC, &since);
  long long ns = (since.tv_sec * 1000000000LL + since.tv_nsec) / 2 * share + t->tv_nsec;
  t->tv_sec += ns / 1000000000LL;
  t->tv_nsec = ns % 1000000000LL;
  return 0;
}

static const char* placed(const char* path) {
  return !strncmp(lie(), "swap=", 5) && !strcmp(path, "/proc/self/status") ? lie() + 5 : path;
}

#define OPEN(name)                                                                  \
  int name(const char* path, int flags, ...) {                                      \
    static int (*real)(const char*, int, ...);                                      \
    if (!real) real = (int (*)(const char*, int, ...))dlsym(RTLD_NEXT, #name);      \
    va_list more;                                                                   \
    va_start(more, flags);                                                          \
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;               \
    va_end(more);                                                                   \
    return real(placed(path), flags, mode);                                         \
  }
OPEN(open)
OPEN(open64)
