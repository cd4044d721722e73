/* What the emulator calls: the kernels of a model, compiled for the CPU. */
#ifndef EDGEC_CUDA_EMULATOR_H
#define EDGEC_CUDA_EMULATOR_H

/* One thread of a GPU function; parameters points at pointers to its arguments, as the driver's
 * launch takes them. */
typedef struct {
    const char *name;
    void (*call)(void **parameters);
} edgec_emulated_function;

/* All of them; a NULL name ends the list. */
extern const edgec_emulated_function edgec_emulated_functions[];

#endif /* EDGEC_CUDA_EMULATOR_H */
