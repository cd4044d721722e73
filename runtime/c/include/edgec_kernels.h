/* Everything the generated kernels call. */
#ifndef EDGEC_KERNELS_H
#define EDGEC_KERNELS_H

#include "edgec_add.h"
#include "edgec_copy.h"
#include "edgec_depthwise.h"
#include "edgec_depthwise_dot.h"
#include "edgec_depthwise_mve.h"
#include "edgec_gemm.h"
#include "edgec_gemm4.h"
#include "edgec_gemm4_dsp.h"
#include "edgec_gemm_dot.h"
#include "edgec_gemm_dsp.h"
#include "edgec_gemm_mve.h"
#include "edgec_hadamard.h"
#include "edgec_math.h"
#include "edgec_matmul.h"
#include "edgec_norm.h"
#include "edgec_pool.h"
#include "edgec_recurrent.h"
#include "edgec_softmax.h"

#endif /* EDGEC_KERNELS_H */
