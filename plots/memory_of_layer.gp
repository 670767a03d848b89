# Which buffers the ops of a layer need: a row per buffer, filled where an op or a later one needs what is in it, as
# high as the part of it that is needed. life.dat: from, to (op number), row, share, category. buffers.dat: row, label.
# ops.dat: op number, name.
name(i) = value(sprintf('CATEGORY_%d', i))
do for [k = 0 : CATEGORIES - 1] { if (name(k) ne '') { eval entry(BOX, name(k), color(k)) } }
eval entry(BOX, 'reserved, idle', 0xEEEEEE)
AXIS = 132
HEIGHT = 20 + 17 * ROWS
LONGEST = 0
longer(text) = strlen(text) > LONGEST ? strlen(text) : LONGEST
stats 'buffers.dat' using (LONGEST = longer(stringcolumn(2)), 0) nooutput
eval open_page
set lmargin at screen (22 + LETTER * LONGEST) / BASE
set rmargin at screen 0.98
set xrange [0 : OPS]
set yrange [ROWS - 0.4 : -0.6]
set ytics () scale 0
set xtics () rotate by 90 right font SMALL scale 0
set label 110 sprintf('the ops of layer %d in order%s', LAYER, RANKS > 1 ? ' (name, rank)' : '') \
    at screen 0.98, screen (FOOT - AXIS + 10) / HEIGHT right textcolor rgb INK
set grid noxtics noytics
# A row's part of the plot, from below: rows are counted downwards.
low(row) = row + 0.38
plot 'buffers.dat' using (0):1:(0):(OPS):($1 - 0.38):($1 + 0.38):(0xEEEEEE):ytic(2) with boxxyerror fs solid 1 noborder \
         lc rgb variable, \
     'life.dat' using 1:3:1:2:(low($3)):(low($3) - 0.76 * $4):(color($5)) with boxxyerror fs solid 1 noborder \
         lc rgb variable, \
     'ops.dat' using 1:(NaN):xtic(2) notitle
